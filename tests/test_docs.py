"""The pages say what is true: their code runs, their commands exist, their links and figures lead somewhere."""

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mi_ortho import load_modes
from mi_ortho.cli import configuration
from mi_ortho.studies.shared.command import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.glob("**/*.md") if "_build" not in path.parts and "results" not in path.parts)
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
COMMAND = re.compile(r"(?:mi-ortho|python -m (?:experiments|benchmarks)\S*|make|\.ci/run|python docs/\S+)(?: .*)?$")
MODEL_FREE = {"concepts.md", "conventions.md", "guides/own_behaviour.md", "guides/long_runs.md"}
FOLLOWED = {"contributing.md"}  # its blocks are added to a copy of the repository: test_contributing.py


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and why it is not run (None where it is)."""

    language: str
    text: str
    excuse: str | None


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    found = re.finditer(r"(?:<!-- not run here: (.*?) -->\n)?^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for match in found:
        yield Block(match[2].strip(), match[3], match[1])


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def of_language(*languages: str) -> list[tuple[Path, Block]]:
    pages = [*PAGES, ROOT / "README.md"]
    return [(page, block) for page in pages for block in blocks(page.read_text("utf-8")) if block.language in languages]


def commands() -> list[tuple[Path, str]]:
    """Every line of the pages that is a command of this project."""
    lines = []
    for page in [*PAGES, ROOT / "README.md"]:
        text = page.read_text("utf-8").replace("\\\n", " ")
        stripped = (line.strip().removeprefix("exec ") for line in text.splitlines())
        lines += [(page, line) for line in stripped if COMMAND.match(line)]
    return lines


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The Python of one page, block after block, as one program."""
    monkeypatch.chdir(folder)
    scope: dict[str, object] = {}
    for block in blocks(page.read_text("utf-8")):
        if block.language == "python" and block.excuse is None:
            exec(compile(block.text, name_of(page), "exec"), scope)


def test_blocks_are_read_with_their_excuse():
    text = "a\n```python\nx = 1\n```\n<!-- not run here: it needs a GPU -->\n```shell\nls\n```\n"
    assert list(blocks(text)) == [Block("python", "x = 1\n", None), Block("shell", "ls\n", "it needs a GPU")]


def test_every_block_has_a_language_that_is_checked():
    included = {"{include} ../mi_ortho/organism/README.md", "{include} ../CHANGELOG.md"}
    known = {"python", "shell", "toml", "json", "text", "{toctree}"} | included
    free = {"contributing.md", "benchmarks.md"}  # plain lists of commands, parsed by the command test
    for page in PAGES:
        found = {block.language for block in blocks(page.read_text("utf-8"))}
        assert found <= known | ({""} if name_of(page) in free else set()), page


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) in MODEL_FREE], ids=name_of)
def test_python_of_the_pages_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert "```python" in page.read_text("utf-8")
    run_page(page, monkeypatch, tmp_path)


def with_model() -> list[Path]:
    return [
        page for page in PAGES if name_of(page) not in MODEL_FREE | FOLLOWED and "```python" in page.read_text("utf-8")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", with_model(), ids=name_of)
def test_python_of_the_pages_that_load_the_model_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run_page(page, monkeypatch, tmp_path)


def test_commands_of_the_pages_are_understood(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    found = commands()
    assert len(found) > 20
    for page, line in found:
        words = re.split(r"#|\s{3,}", line)[0].split()  # what follows in a list of commands describes them
        if words[0] == "make":
            understood_by_make(words[1:], page)
        elif words[0] == "mi-ortho":
            understood_by_cli([word.strip('"') for word in words[1:]], page)
        elif words[0] == "python":
            assert importlib.util.find_spec(words[2]) if words[1] == "-m" else (ROOT / words[1]).is_file(), line
        else:
            assert (ROOT / words[0]).is_file(), line


def understood_by_make(words: list[str], page: Path) -> None:
    rules = (ROOT / "Makefile").read_text("utf-8")
    for word in words:
        if "=" not in word:
            assert re.search(rf"^{word}:", rules, re.MULTILINE), (page, word)


def understood_by_cli(words: list[str], page: Path) -> None:
    """Parsed as the command line would, values included, without running anything."""
    if not words or words[-1] == "--help" or words == ["--version"]:
        return
    words = [word.replace("$SLURM_ARRAY_TASK_ID", "3") for word in words]
    if "--config" in words:
        del words[words.index("--config") : words.index("--config") + 2]
    _, app.config = configuration.settings_files(words)
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except Exception as error:
        raise AssertionError(f"{name_of(page) if page.is_relative_to(DOCS) else page}: {' '.join(words)}") from error
    finally:
        app.config = []


def test_settings_files_of_the_pages_hold_known_settings(tmp_path: Path):
    found = of_language("toml")
    assert found
    for _, block in found:
        assert tomllib.loads(block.text)
        if block.text.startswith("# experiments/predictions/"):
            continue
        (tmp_path / "mine.toml").write_text(block.text, "utf-8")
        rest, app.config = configuration.settings_files(["family", "--config", str(tmp_path / "mine.toml")])
        app.parse_args(rest, exit_on_error=False, print_error=False)
        app.config = []


def test_json_of_the_pages_is_valid(tmp_path: Path):
    found = [json.loads(block.text) for _, block in of_language("json")]
    assert any("modes" in content for content in found)
    for content in found:
        if "modes" in content:
            (tmp_path / "modes.json").write_text(json.dumps(content), "utf-8")
            assert "pirate" in load_modes(tmp_path / "modes.json").names


def test_a_page_is_as_wide_as_the_lines_of_its_commands():
    """`docs/static/docs.css` makes room for 120 characters; what is longer would be cut off."""
    for page, block in of_language("python", "shell", "toml", "json", "text"):
        assert max(map(len, block.text.splitlines())) <= 120, page


def test_links_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            near = [file, file.with_name(file.name + ".md"), file.with_name(file.name + ".py")]
            there = [candidate for candidate in near if candidate.is_file()]
            assert there, (page, target)
            if anchor and there[0].suffix == ".md":
                assert anchor in anchors(there[0].read_text("utf-8")), (page, target)


def anchors(text: str) -> set[str]:
    labels = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return labels | {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_references_name_public_things():
    for page in PAGES:
        for target in re.findall(r"\{py:\w+\}`~?([\w.]+)`", page.read_text("utf-8")):
            owner, _, name = target.rpartition(".")
            assert owner.split(".")[0] == "mi_ortho" and owner.count(".") <= 1, (page, target)
            assert hasattr(importlib.import_module(owner), name), (page, target)


REASONS = re.compile(
    r"needs (?:the network|the hub|a GPU|llama\.cpp|the harness)|would install packages|opens a browser"
    r"|builds these pages|is yours|for your own terminal|has a test of its own|tests call the functions"
)


def test_what_is_not_run_says_why_and_is_never_python():
    excused = [
        (page, block)
        for page in [*PAGES, ROOT / "README.md"]
        for block in blocks(page.read_text("utf-8"))
        if block.excuse is not None
    ]
    assert excused
    for page, block in excused:
        assert block.language == "shell" and REASONS.search(str(block.excuse)), (page, block)


def test_every_block_belongs_to_a_test():
    """Python and shell blocks are found by the tests that run them; what neither is has a checker of its own."""
    run = [*(page for page in PAGES if name_of(page) in MODEL_FREE), *with_model()]
    shell = {page for page, _ in of_language("shell")}
    for page in PAGES:
        for block in blocks(page.read_text("utf-8")):
            assert block.language != "python" or page in run or name_of(page) in FOLLOWED, page
            assert block.language != "shell" or page in shell, page
    assert not [
        block for block in blocks((ROOT / "README.md").read_text("utf-8")) if block.language not in ("", "python")
    ]
    assert (ROOT / "tests" / "test_readme.py").is_file()  # runs and parses those


def reference_pages() -> dict[str, str]:
    """The pages of the API reference, as a build would write them."""
    sys.path.insert(0, str(DOCS))
    try:
        from sphinx_local import reference  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(DOCS))
    return {file: reference.page(*found) for file, found in reference.pages().items()}


def test_reference_describes_every_public_name():
    import mi_ortho

    described = set(re.findall(r"^\.\. auto\w+:: (\S+)", "\n".join(reference_pages().values()), re.MULTILINE))
    submodules = {name for name in mi_ortho.__all__ if inspect.ismodule(getattr(mi_ortho, name))}
    wanted = {f"mi_ortho.{name}" for name in set(mi_ortho.__all__) - submodules}
    spaces = [getattr(mi_ortho, name) for name in submodules - {"studies"}]
    names = {f"{space.__name__}.{n}": getattr(space, n) for space in spaces for n in getattr(space, "__all__", ())}
    inside = {name for name, value in names.items() if inspect.isclass(value) or inspect.isroutine(value)}
    at_root = {name.split(".")[-1] for name in wanted}
    missing = {name for name in inside - described if name.split(".")[-1] not in at_root}
    assert wanted <= described and not missing, (wanted - described, missing)
    values = {name: getattr(mi_ortho, name.split(".")[-1]) for name in wanted}
    spoken = {name: value for name, value in values.items() if inspect.isclass(value) or inspect.isroutine(value)}
    silent = [name for name, value in spoken.items() if not (inspect.getdoc(value) or "").strip()]
    assert silent == []


def figures():
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_of_the_concepts_show_what_is_said():
    """The three claims of the page, from the functions that draw it."""
    drawn = figures()
    base = drawn.random_base()
    assert all(one.loss > 0.999 for one in drawn.family(drawn.equal(), base, 2, cap=1.0))
    energetic = drawn.family(drawn.energy(), drawn.energy_base(), 20, cap=1.0)
    assert len(energetic) == drawn.DIMENSIONS - 1
    assert max(one.loss for one in energetic) < 1e-2
    capped = [drawn.family(drawn.decaying(), base, 12, cap) for cap in (drawn.CAPS[0], drawn.CAPS[-1])]
    counts = [sum(one.loss <= drawn.USEFUL for one in found) for found in capped]
    assert counts[0] < counts[1]


def test_figures_are_those_the_script_draws():
    names = set(re.findall(r"\(images/(concept-[\w-]+\.svg)\)", (DOCS / "concepts.md").read_text("utf-8")))
    assert names == set(figures().FIGURES)
    for name in names:
        assert (DOCS / "images" / name).read_text("utf-8").startswith("<svg")


def test_tutorials_are_scripts_of_cells_that_hard_code_no_result():
    assert TUTORIALS
    for path in TUTORIALS:
        text = path.read_text("utf-8")
        ast.parse(text)
        assert text.count("# %% [markdown]") > 3 and "mi_ortho" in text
        prose = "\n".join(line for line in text.splitlines() if line.startswith("# "))
        assert not re.search(r"\d\.\d{2}|\d+ ?%(?! interval)", prose.replace("95 %", "")), path


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run(path: Path, tmp_path: Path):
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, path], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({page for page, _ in of_language("shell")}), ids=lambda page: page.stem)
def test_commands_of_a_page_run_one_after_the_other(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    lines = [
        line
        for block in blocks(page.read_text("utf-8"))
        if block.language == "shell" and block.excuse is None
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]
    if page in PAGES and name_of(page) in MODEL_FREE:
        run_page(page, monkeypatch, tmp_path)  # commands may use the files that it writes
    tools = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=tools, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr[-2000:])


def test_nothing_on_the_pages_belongs_to_one_machine():
    for path in [*DOCS.glob("*.md"), *DOCS.glob("guides/*.md"), *TUTORIALS, DOCS / "conf.py"]:
        assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp|opt)/", path.read_text("utf-8")), path
