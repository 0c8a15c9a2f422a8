"""Nothing a user can type gives more than one line, and lists are taken in every way people write them."""

import dataclasses
import itertools
import typing
from collections.abc import Iterator
from typing import Any

import cyclopts
import pytest

from mi_ortho import cli
from mi_ortho.cli import main
from mi_ortho.studies.shared.command import app

COMMANDS = ("family", "melbo", "nulls", "presence", "dct", "refusal", "geometry", "atlas", "explore")


def config_of(name: str) -> type:
    found = app[name]
    function = found.default_command if found.default_command is not None else found
    hint = typing.get_type_hints(function, include_extras=True)["config"]
    return typing.get_args(hint)[0]


def options(kind: Any) -> Iterator[tuple[str, str]]:
    """(command, option) of every setting of a kind."""
    for name in COMMANDS:
        hints = typing.get_type_hints(config_of(name))
        for field in dataclasses.fields(config_of(name)):
            parts = {
                typing.get_origin(part) or part for part in (hints[field.name], *typing.get_args(hints[field.name]))
            }
            if kind in parts:
                yield name, field.name


def bound(*words: str) -> Any:
    return app.parse_args(list(words), exit_on_error=False, print_error=False)[1].arguments


LISTS = list(options(tuple))


def test_there_are_lists_to_try() -> None:
    assert {("family", "held_out"), ("dct", "method"), ("dct", "seeds"), ("presence", "layers")} <= set(LISTS)


@pytest.mark.parametrize(("command", "name"), LISTS, ids=lambda one: str(one))
def test_lists_are_taken_together_and_one_by_one(command: str, name: str) -> None:
    run = ["somewhere"] if command in ("explore",) else []
    flag = f"--{name.replace('_', '-')}"
    together = bound(command, *run, flag, "1", "2", "--device", "cpu")["config"]
    repeated = bound(command, *run, flag, "1", flag, "2")["config"]
    taken = [[str(one).removesuffix(".0") for one in getattr(config, name)] for config in (together, repeated)]
    assert taken == [["1", "2"], ["1", "2"]]


def test_names_of_experiments_may_follow_a_setting() -> None:
    found = app.parse_args(["experiment", "--set", "cases=2", "one", "two"], exit_on_error=False, print_error=False)[1]
    assert found.args == ("one", "two") and found.kwargs["choices"].settings == ("cases=2",)


def mistake(capsys: Any, *words: str) -> str:
    code = main(list(words))
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and len(lines[0]) < 700, (words, code, captured.err[:600])
    return lines[0]


NUMBERS = [*options(int), *options(float)]
WRONG = ("abc", "", "nan", "1e999", "-1e999", "1;2")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded: what is wrong alone is told before."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("loads a model")

    monkeypatch.setattr("mi_ortho.studies.shared.subject.open_subject", refuse)


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_numbers_are_one_line(command: str, capsys: Any, no_model: None, tmp_path: Any) -> None:
    run = [str(tmp_path)] if command in ("explore", "nulls", "presence") else []
    for name in dict.fromkeys(name for one, name in NUMBERS if one == command):
        for wrong in WRONG:
            line = mistake(capsys, command, *run, f"--{name.replace('_', '-')}={wrong}", "--out", str(tmp_path))
            assert "loads a model" not in line, (name, wrong)


PLACES = [
    *itertools.product(["family", "melbo", "dct"], ["--where"], ["last", "-1", "first", "0", "1.5", "mean", "²", ""]),
    *itertools.product(["family", "melbo", "dct"], ["--readout"], ["first", "-2", "0", "mean of", "nan"]),
    *itertools.product(["family", "melbo"], ["--melbo-readout"], ["first", "users"]),
]


@pytest.mark.parametrize(("command", "flag", "wrong"), PLACES)
def test_wrong_places_are_one_line(
    command: str, flag: str, wrong: str, capsys: Any, no_model: None, tmp_path: Any
) -> None:
    line = mistake(capsys, command, f"{flag}={wrong}", "--out", str(tmp_path))
    assert "expected" in line and repr(wrong) in line


@pytest.mark.parametrize("command", ["show", "report", "export", "nulls", "presence", "explore", "compare"])
def test_runs_that_are_not_there_are_one_line(command: str, capsys: Any, tmp_path: Any) -> None:
    missing = str(tmp_path / "nowhere")
    words = {"export": [missing, str(tmp_path / "v.gguf")], "compare": [missing, missing]}.get(command, [missing])
    line = mistake(capsys, command, *words)
    assert "nowhere" in line and "Errno" not in line


def test_prompts_from_a_file_are_the_texts(capsys: Any, no_model: None, tmp_path: Any) -> None:
    line = mistake(capsys, "family", "--prompts", str(tmp_path / "missing.txt"), "--out", str(tmp_path))
    assert "missing.txt" in line and "does not exist" in line


def raising(error: BaseException) -> Any:
    def command(*_: Any, **__: Any) -> None:
        raise error

    return command


def test_an_interruption_says_how_to_go_on(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mi_ortho.studies.family.command.execute", raising(KeyboardInterrupt()))
    assert main(["family"]) == 130
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory\nmore"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_a_lack_of_memory_is_one_line(error: Exception, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mi_ortho.studies.family.command.execute", raising(error))
    assert "out of memory" in mistake(capsys, "family")


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("a\nb" * 4000), RuntimeError("odd"), RecursionError("deep")]
)
def test_what_nobody_foresaw_is_one_line_and_a_file(
    error: Exception, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("mi_ortho.studies.family.command.execute", raising(error))
    assert main(["family"]) == 1
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1 and len(captured) < 500
    [file] = tmp_path.iterdir()
    assert str(file) in captured and "Traceback" in file.read_text() and type(error).__name__ in file.read_text()


def test_cyclopts_is_told_to_let_interruptions_through() -> None:
    assert isinstance(app, cyclopts.App) and app.suppress_keyboard_interrupt is False and cli.app is app
