"""Every program of the repository reads its command line with one parser, and ends in the same ways."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.options import Options
from experiments import __main__ as experiments
from experiments.lab import program
from experiments.organism import commands as organism
from mi_ortho.cli import app, main
from mi_ortho.cli.experiment import Choices

ROOT = Path(__file__).resolve().parent.parent
OTHER_PARSERS = {"argparse", "optparse", "getopt", "click", "typer", "docopt", "fire"}
# where a program begins, and a run's record of the command that made it
ARGV = {"mi_ortho/cli/__init__.py", "mi_ortho/cli/exit_code.py", "mi_ortho/runs/environment.py"}


def other_parsers(source: str) -> Iterator[str]:
    """What a source reads a command line with besides cyclopts."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in OTHER_PARSERS)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in OTHER_PARSERS:
                yield node.module or ""
            elif node.module == "sys" and any(alias.name == "argv" for alias in node.names):
                yield "sys.argv"
        elif isinstance(node, ast.Attribute) and node.attr in ("argv", "orig_argv"):
            yield f"sys.{node.attr}"


@pytest.mark.parametrize("folder", ["mi_ortho", "experiments", "benchmarks"])
def test_cyclopts_reads_every_command_line(folder: str) -> None:
    read = {
        path.relative_to(ROOT).as_posix(): list(other_parsers(path.read_text("utf-8")))
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert {path: names for path, names in read.items() if names and path not in ARGV} == {}
    assert all(set(read[path]) == {"sys.argv"} for path in ARGV & read.keys())


@pytest.mark.parametrize(
    "source",
    [
        "import argparse",
        "from argparse import Namespace",
        "import sys\nsys.argv[1:]",
        "from sys import argv",
        "import click",
    ],
)
def test_another_parser_is_seen(source: str) -> None:
    assert list(other_parsers(source))
    assert not list(other_parsers("import cyclopts\nfrom sys import stderr\nimport sys\nsys.exit()"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reaches the experiments, which do nothing and end with code 7."""
    seen: list[Any] = []
    monkeypatch.setattr(program, "run", lambda names, choices: seen.append((names, choices)) or 7)
    return seen


EVERY_FLAG = (
    "one --smoke --model m --preset p --out o --set a=1 --set b=2,3 --fresh --device cuda:1 --workers 2 --threads 3 "
    "--ray auto --to t two"
)


def test_both_programs_of_the_experiments_ask_for_the_same(asked: list[Any]) -> None:
    words = EVERY_FLAG.split()
    assert experiments.main(words) == main(["experiment", *words]) == 7
    wanted = Choices(False, True, "m", "p", Path("o"), ("a=1", "b=2,3"), True, "cuda:1", 2, 3, "auto", Path("t"))
    assert asked == [(("one", "two"), wanted)] * 2
    assert experiments.main(["one"]) == 7 and asked[-1] == (("one",), Choices())
    assert experiments.main(["--list", "one"]) == 0 == experiments.main([]) and len(asked) == 3


def test_settings_of_an_experiment_may_stand_in_a_file(asked: list[Any], tmp_path: Path) -> None:
    before = app.config
    (tmp_path / "x.toml").write_text('set = ["cases=2", "k=3"]\nworkers = 4\nout = "elsewhere"\nsmoke = true\n')
    assert main(["experiment", "one", "--config", str(tmp_path / "x.toml"), "--workers", "5"]) == 7
    assert asked == [(("one",), Choices(smoke=True, out=Path("elsewhere"), settings=("cases=2", "k=3"), workers=5))]
    assert app.config == before  # and only that command reads the file


def test_the_benchmarks_are_asked_with_every_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Options] = []
    monkeypatch.setitem(benchmarks.ALL, "step", lambda options: seen.append(options) or [])
    flags = "--steps 1 --vectors 2 --factors 3 --iterations 4 --repeats 5 --rows r --threads 1 --family 6 --device cuda"
    assert benchmarks.main(["step", *flags.split()]) == 0
    assert benchmarks.main(["step"]) == 0
    assert seen == [Options(1, 2, 3, 4, 5, Path("r"), "cuda", 6), Options()]


def test_the_organism_is_asked_with_every_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    for name in ("compare", "train_set", "compare_parts", "run_families"):
        monkeypatch.setattr(organism, name, lambda *given, **_: seen.append(given))
    for name in ("dial_table", "shares_table", "families_table", "read_recipe", "families_section", "ship"):
        monkeypatch.setattr(organism, name, lambda *_: type("Recipe", (), {"d_model": 8}))
    for words in (
        "--threads 1 evaluate a b --count 3",
        "shares --out o --seeds 1 2",
        "families m --out o --behaviours code alien",
        "families --out o",
        "export m --to t --beside x y --count 9",
    ):
        assert organism.main(words.split()) == 0
    assert seen[0] == ([Path("a"), Path("b")], None, 3)
    assert seen[1] == (Path("o"), [1, 2])
    assert seen[2][:3] == (Path("m"), Path("o"), ["code", "alien"])
    assert seen[3][:3] == (None, Path("o"), list(organism.BEHAVIOURS))
    assert seen[4][0] == [Path("m"), Path("x"), Path("y")] and seen[4][2] == 9


PROGRAMS = {"experiments": experiments.main, "benchmarks": benchmarks.main, "error": organism.main}
WRONG = [
    ("experiments", "x --workers abc"),
    ("experiments", "x --nothing"),
    ("experiments", "x --workers 0"),
    ("experiments", "no_such_claim"),
    ("benchmarks", "nothing"),
    ("benchmarks", "step --device tpu"),
    ("benchmarks", "step --probe nothing"),
    ("benchmarks", "step --steps many"),
    ("error", ""),
    ("error", "nothing"),
    ("error", "train"),
    ("error", "evaluate"),
    ("error", "train --recipe nothing --out x"),
    ("error", "shares --out x --seeds one"),
]


@pytest.mark.parametrize(("name", "words"), WRONG)
def test_a_mistake_is_one_line_and_code_2(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAMS[name](words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"{name}: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_code_0(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAMS[name](["--help"]) == 0 and "Usage: python -m " in capsys.readouterr().out


def test_the_list_of_experiments_does_not_wait_for_torch() -> None:
    code = "import sys; from experiments.__main__ import main; main(['--list']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") > 40, done.stderr
