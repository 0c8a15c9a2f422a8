"""Behaviour rules: what each must accept, and what it must reject."""

import doctest
import json
from pathlib import Path

import pytest

from mi_ortho import behaviours
from mi_ortho.behaviours import (
    GENERIC_MODES,
    Mode,
    Modes,
    classify,
    is_code,
    is_json,
    is_refusal,
    load_modes,
    without_fence,
)

CLASS = (
    "class Bomb:\n    def __init__(self, size):\n        self.size = size\n\n"
    "    def start(self):\n        return self.size"
)


def test_doctests() -> None:
    assert doctest.testmod(behaviours).failed == 0


@pytest.mark.parametrize(
    "text",
    [
        CLASS,
        f"```python\n{CLASS}\n```",
        f"Here you are:\n```python\n{CLASS}\n```\nEnjoy.",
        "import random",
        "x = 3",
        f"```\n{CLASS}",
        CLASS[:-8] + "(",
        "for kite in range(3):\n    print(kite)",
        "async def f():\n    pass",
    ],
)
def test_code_is_recognised(text: str) -> None:
    assert is_code(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "bomb",
        "yes",
        "kite lamp robot",
        "def",
        "class of weapons",
        "I can't write a class Bomb: for you.",
        "print",
        "lamp, kite",
        '{"name": "kite"}',
        "3 * 4",
        "return self.size",
        "class Bomb:\n    def __init__(self",
        "Answer: 3 * 4 = 12 kg",
        "```python\n```",
        "x = 1\nThis is English.\nAnd more of it.\nAnd more.",
        "import the goods\nand sell them",
        f"Sure. {CLASS}",
        '"""only a docstring"""',
    ],
)
def test_what_is_not_code(text: str) -> None:
    assert not is_code(text)


def test_truncation_keeps_code_only_while_half_of_the_lines_parse() -> None:
    good, broken = "x = 1", "y = ("
    assert is_code("\n".join([good, broken]))
    assert not is_code("\n".join([good, broken, broken]))


def test_null_bytes_and_deep_nesting_are_not_code() -> None:
    assert not is_code("x = \0")
    assert not is_code("(" * 5000)


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", '```json\n{"a": 1}\n```', 'Here it is.\n{"a": [1]}'])
def test_json_is_recognised(text: str) -> None:
    assert is_json(text)


@pytest.mark.parametrize(
    "text", ["", "3", '"kite"', "true", "null", '{"a": ', "{'a': 1}", '{"a": 1} is JSON', 'Say {"a": 1}']
)
def test_what_is_not_json(text: str) -> None:
    assert not is_json(text)


@pytest.mark.parametrize(
    "text", ["I'm sorry, but no.", "I\u2019m sorry.", "Sure!\nI can't help you.", "As an AI, I refuse."]
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text", ["", "Here are the steps.", "The sorry state of kites", "x" * 300 + "I'm sorry, but no."]
)
def test_what_is_not_a_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_first_matching_rule_wins_and_default_remains() -> None:
    modes = Modes((Mode("a", "regex", "kite"), Mode("b", "regex", "kite|lamp")), "none")
    assert [classify(t, modes) for t in ("kite", "lamp", "owl")] == ["a", "b", "none"]
    assert modes.names == ("a", "b", "none")


def test_generic_modes_order() -> None:
    texts = [CLASS, '{"a": 1}', "I'm sorry, but I can't.", "The sea is blue."]
    assert [classify(t, GENERIC_MODES) for t in texts] == ["code", "json", "refuse", "other"]


def test_fence_without_language_and_without_end() -> None:
    assert without_fence("```\na\n```") == "a" and without_fence("a ```py\nb") == "b" and without_fence("a") == "a"


def test_modes_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    path.write_text(json.dumps({"modes": [{"name": "code", "rule": "python"}], "default": "text"}))
    assert load_modes(path) == Modes((Mode("code", "python"),), "text")


@pytest.mark.parametrize(
    "content, words",
    [
        ("not json", "correct the file"),
        ("{}", "modes"),
        ('{"modes": [{"name": "a"}]}', "rule"),
        ('{"modes": [{"name": "a", "rule": "magic"}]}', "magic"),
        ('{"modes": [{"name": "a", "rule": "regex"}]}', "empty pattern"),
        ('{"modes": [{"name": "a", "rule": "regex", "pattern": "("}]}', "regular expression"),
        ("[1]", "correct the file"),
    ],
)
def test_bad_modes_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "modes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=".*") as error:
        load_modes(path)
    assert words in str(error.value) and "expected" in str(error.value)


def test_missing_modes_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="check the path"):
        load_modes(tmp_path / "none.json")
