"""The page for contributors says what is true: its picture shows the imports, and its recipes work.

Each recipe is followed in a copy of the repository: the blocks of the page are put where their first line says.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "contributing.md"
GOES = re.compile(r"^# ([\w/]+\.(?:py|toml))(?:, (at the end|with the imports|under the line: (.*)))?$")
FILES = 2  # that a recipe changes or adds at most, beside the one folder of a command
RULES = """
import house, test_architecture as rules
assert rules.ROOT == house.ROOT == pathlib.Path.cwd()
faults = []
for module, path in rules.sources("mi_ortho")[1:]:  # the root names everything
    faults += rules.library_faults(module, path.read_text("utf-8"), path.name == "__init__.py")
for module, path in rules.sources("experiments"):
    faults += rules.experiment_faults(module, path.read_text("utf-8"))
assert not faults, faults
rules.test_the_house_is_as_small_as_it_was_meant_to_be()
"""

# --- the map


def test_the_picture_shows_the_house_as_it_is() -> None:
    drawn, real = house.read_picture(house.PICTURE.read_text("utf-8")), house.read_house()
    again = "draw it again: python -m tests.house"
    assert drawn.arrows == real.arrows, again
    assert drawn.lines.keys() == real.lines.keys(), again
    # a few lines more or less are no other house
    far = [room for room, count in real.lines.items() if abs(drawn.lines[room] - count) > max(100, count // 4)]
    assert not far, again
    assert house.draw(drawn) == house.PICTURE.read_text("utf-8"), again


def test_a_picture_of_other_imports_is_seen() -> None:
    real = house.read_house()
    svg = house.draw(real)
    assert house.read_picture(svg) == real and svg.count("<path") == len(real.arrows)
    fewer = house.House(real.lines, real.arrows - {("cli", "studies.overview")})
    assert house.draw(fewer) != svg and house.read_picture(house.draw(fewer)) == fewer


def test_an_arrow_that_follows_from_others_is_no_step() -> None:
    arrows = frozenset({("c", "b"), ("b", "a"), ("c", "a")})
    assert house.House({"a": 1, "b": 1, "c": 1}, arrows).steps == {("c", "b"), ("b", "a")}


def test_the_page_says_what_every_room_holds() -> None:
    told = re.findall(r"^\| `([\w.]+)` \| .+ \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(house.read_house().lines)


def test_files_that_the_page_names_exist() -> None:
    told = PAGE.read_text("utf-8")
    new = {place for text in recipes().values() for place, _, _ in parts_of(text)}
    named = set(re.findall(r"`((?:mi_ortho|tests|experiments|docs|requirements)/[\w./]+)`", told))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists() and name not in new] == [
        name
        for name in named
        if name == "mi_ortho/organism/lengths.toml"  # would be the example's
    ]


# --- the recipes


def recipes() -> dict[str, str]:
    """The text of each recipe by its heading."""
    text = PAGE.read_text("utf-8").partition("\n## How to add\n")[2].partition("\n## ")[0]
    return {part.partition("\n")[0]: part for part in text.split("\n### ")[1:]}


def blocks_of(recipe: str) -> list[str]:
    """The code blocks of a recipe."""
    return re.findall(r"^```(?:python|toml)\n(.*?)^```$", recipe, re.MULTILINE | re.DOTALL)


def parts_of(recipe: str) -> list[tuple[str, str, str]]:
    """(file, where in it, code) of everything a recipe adds."""
    found: list[tuple[str, str, list[str]]] = []
    for block in blocks_of(recipe):
        for k, line in enumerate(block.splitlines()):
            if goes := GOES.match(line):
                found.append((goes[1], goes[2] or "", []))
            elif k and found and GOES.match(block.partition("\n")[0]):
                found[-1][2].append(line)
    return [(place, where, "\n".join(code) + "\n") for place, where, code in found]


def programs_of(recipe: str) -> str:
    """The blocks of a recipe that use what it adds."""
    return "\n".join(block for block in blocks_of(recipe) if not GOES.match(block.partition("\n")[0]))


def put(root: Path, place: str, where: str, code: str) -> None:
    """Add one part to a copy of the repository."""
    path = root / place
    if not where:
        assert not path.exists(), f"{place} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, "utf-8")
        return
    lines = path.read_text("utf-8").splitlines(keepends=True)
    if where == "at the end":
        at, code = len(lines), f"\n\n{code}"
    elif where == "with the imports":
        at = next(k for k, line in enumerate(lines) if line.startswith(("from mi_ortho", "import ")))
    else:
        above = where.removeprefix("under the line: ")
        same = [k for k, line in enumerate(lines) if line.strip() == above]
        assert len(same) == 1, f"{place} has {len(same)} lines {above!r}"
        at = same[0] + 1
    path.write_text("".join([*lines[:at], code, *lines[at:]]), "utf-8")


def follow(root: Path, *titles: str) -> None:
    """Copy the repository and follow recipes in it, as its formatter then leaves it."""
    ignored = shutil.ignore_patterns("__pycache__", "_build")
    for folder in ("mi_ortho", "experiments", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    changed = set()
    for title in titles:
        for place, where, code in parts_of(recipes()[title]):
            put(root, place, where, code)
            changed.add(place)
    for arguments in (["check", "--fix", "--quiet"], ["format", "--quiet"], ["check", "--quiet"]):
        done = run(root, "-m", "ruff", *arguments, *sorted(changed))
        assert done.returncode == 0, done.stdout + done.stderr


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a copy of the repository, which it imports."""
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def output(root: Path, *arguments: str) -> str:
    done = run(root, *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_a_recipe_takes_two_files_at_most() -> None:
    for title, text in recipes().items():
        files = {place for place, _, _ in parts_of(text)}
        places = {"mi_ortho/studies/lengths" if "/studies/lengths/" in place else place for place in files}
        places -= {place for place in places if "/predictions/" in place}  # a claim and its predictions are one
        assert 1 <= len(places) <= FILES, (title, places)


def test_parts_go_where_their_first_line_says(tmp_path: Path) -> None:
    text = "```python\n# a/b.py\nx = 1\n# a/c.py, under the line: T = (\n    2,\n```\n```python\nprint(1)\n```\n"
    assert parts_of(text) == [("a/b.py", "", "x = 1\n"), ("a/c.py", "under the line: T = (", "    2,\n")]
    assert programs_of(text) == "print(1)\n"
    (tmp_path / "c.py").write_text("import os\n\nT = (\n    1,\n)\n", "utf-8")
    put(tmp_path, "c.py", "under the line: T = (", "    2,\n")
    put(tmp_path, "c.py", "with the imports", "import ast\n")
    put(tmp_path, "c.py", "at the end", "y = 2\n")
    assert (tmp_path / "c.py").read_text("utf-8") == "import ast\nimport os\n\nT = (\n    2,\n    1,\n)\n\n\ny = 2\n"
    with pytest.raises(AssertionError, match="0 lines"):
        put(tmp_path, "c.py", "under the line: missing", "")


SMALL = """
import mi_ortho, pathlib
assert pathlib.Path(mi_ortho.__file__).is_relative_to(pathlib.Path.cwd()), mi_ortho.__file__
{intervention}
assert float(before.norm(dim=-1).min()) > 1.0 and abs(float(after.norm(dim=-1).max()) - 1.0) < 1e-4
{null}
assert effects.shape == chance.shape == (3,) and bool(chance.isfinite().all()) and not bool((effects == chance).all())
from fake_pages import write_recorded
from mi_ortho.studies.nulls.page import nulls_report
page = nulls_report(write_recorded("nulls", pathlib.Path("recorded"))).read_text("utf-8")
assert 'id="norms"' in page and "How long the vectors are" in page, "the section is not on the page"
assert page.count('<svg class="histogram"') == 1, "the figure is not on the page"
import test_architectures
test_architectures.test_every_capability_is_exact_or_refused_in_one_line("{name}")
assert "{name}" in test_architectures.architectures.FAMILIES
print("followed")
"""


def test_intervention_null_section_figure_and_architecture(tmp_path: Path) -> None:
    """In one process, which has the imports and the model once."""
    known = recipes()
    follow(tmp_path, "An intervention", "A null", "A page section", "A figure", "An architecture")
    program = SMALL.format(
        intervention=programs_of(known["An intervention"]),
        null=programs_of(known["A null"]),
        name=re.findall(r'"(\w+)": lambda', known["An architecture"])[0],
    )
    (tmp_path / "small.py").write_text(program + RULES, "utf-8")
    assert output(tmp_path, "small.py").endswith("followed\n")


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    follow(tmp_path, "A command")
    assert re.search(r"lengths +Measure how long", output(tmp_path, "-m", "mi_ortho.cli", "--help"))
    told = output(tmp_path, "-m", "mi_ortho.cli", "lengths", "--limit", "3", "--out", "made")
    assert "Of 1 claims" in told
    (run_dir,) = (path.parent for path in (tmp_path / "made" / "lengths").glob("*/summary.json"))
    assert 'id="lengths"' in (run_dir / "report.html").read_text("utf-8")
    assert output(tmp_path, "-m", "mi_ortho.cli", "report", str(run_dir))
    raised = tmp_path / "tests" / "test_architecture.py"
    text, limit = raised.read_text("utf-8"), '"arrows": 130'
    assert limit in text
    raised.write_text(text.replace(limit, '"arrows": 136'), "utf-8")  # by the six that this command has
    output(tmp_path, "-c", f"import pathlib\n{RULES}")


@pytest.mark.slow
def test_experiment(tmp_path: Path) -> None:
    follow(tmp_path, "An experiment")
    assert "the_stream_grows" in output(tmp_path, "-m", "experiments", "--list")
    told = output(tmp_path, "-m", "experiments", "the_stream_grows", "--smoke", "--out", "made")
    assert "invalid" in told and "Is the residual stream longer" in told  # three prompts are too few for eight
    assert list((tmp_path / "made").rglob("report.html"))
    test = "tests/test_experiments.py::test_experiment_is_complete[the_stream_grows]"
    assert "1 passed" in output(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", test)
    output(tmp_path, "-c", f"import pathlib\n{RULES}")
