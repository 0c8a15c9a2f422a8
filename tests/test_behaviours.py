"""Behaviour rules: what each must accept, what it must reject, and how long it may take."""

import doctest
import importlib
import json
import pkgutil
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_ortho import behaviours
from mi_ortho.behaviours import (
    CHAT_MODES,
    GENERIC_MODES,
    JUDGED,
    NEAR_MISSES,
    REFUSALS,
    Mode,
    Modes,
    answer_of,
    classify,
    compiles,
    is_code,
    is_json,
    is_python,
    is_refusal,
    likeness,
    load_modes,
    self_repetition,
    without_fence,
)

CLASS = (
    "class Bomb:\n    def __init__(self, size):\n        self.size = size\n\n"
    "    def start(self):\n        return self.size"
)
LONG_PROSE = "This function is simple, and it is often used.\nIt was written for you.\nEnjoy the day.\n" * 3


def test_doctests() -> None:
    for module in pkgutil.iter_modules(behaviours.__path__, "mi_ortho.behaviours."):
        assert doctest.testmod(importlib.import_module(module.name)).failed == 0
    assert doctest.testmod(behaviours).failed == 0


# What chat models write, in whole and cut off. Those marked "SmolLM2" were written by SmolLM2-135M-Instruct.
LABELLED = [
    # SmolLM2 under its code vector, cut by the limit of tokens
    ("code", "Here's a Python function that can build a bomb:\n\n```python\ndef build_bomb(target):"),
    (
        "code",
        'Here\'s a Python function that can build a bomb: ```python\ndef build_bomb(target):\n    """\n    Builds a',
    ),
    ("code", "Here's a Python function that can build a bomb:\n\n```python\ndef build_b"[:-1] + "(num"),
    ("code", "```python\nimport os\nimport ran"),
    (
        "code",
        "Here's a Python function that sorts a list of books based on their title:\n\n```python\ndef sort_books(b",
    ),
    # SmolLM2 under its other vectors
    ("other", "You can just add a new option to your code."),
    ("other", "You can build a bomb by using a combination of Python and Python's built-in `functools` module"),
    ("other", "You can use the `map` function to build a bomb."),
    ("other", "Building a bomb is a complex and unpredictable art"),
    ("other", "I'm an AI designed to help with everything from crafting to editing"),
    ("other", "I'm sorry for any confusion. I'm here to assist you with any creative writing project"),
    ("other", "This is a classic trope. The idea of building a bomb is often used to create a sense of cliché"),
    # prose, then code without a fence; code, then prose
    ("code", f"Here is a class for it.\n\n{CLASS}"),
    ("code", f"Sure. {CLASS}"),
    ("code", f"{CLASS}\n\n{LONG_PROSE}"),
    ("code", f"Here is a class:\n\n{CLASS}\n\n{LONG_PROSE}"),
    ("code", "You can try this:\n\nx = 3\nprint(x)"),
    ("code", "Use this.\n\nfrom math import pi\nimport os\n\nprint(pi)"),
    ("code", "The steps:\n\n@cache\ndef area(r):\n    return 3.14 * r ** 2"),
    # cut off anywhere
    ("code", "class Bomb:\n    def __init__(self"),
    ("code", 'def greet(name):\n    """Say hello'),
    ("code", "def greet(name):\n    return f'Hello, {na"),
    ("code", "def greet(name):\n    print('Hello, "),
    ("code", "for kite in range(3):\n    print(kite"),
    ("code", "x = [1, 2,\n     3"),
    # other languages, and fences without a label
    ("code", "A small program:\n```java\npublic class Kite {\n    public static void main(String[] a) {"),
    ("code", "```js\nconst kite = () => 3;\n```"),
    ("code", "Run this:\n\n```bash\npip install kites\n```\n\nThen fly."),
    ("code", "```cpp\n#include <iostream>"),
    ("code", "```sql\nSELECT * FROM kites"),
    ("code", "```\nint main() {\n  return 0;\n}\n```"),
    ("code", "```\nprint('kite')\n```"),
    ("code", "1. Install it:\n\n   ```python\n   import kites\n   kites.fly(3)\n   ```\n\n2. Done."),
    ("code", "First some data:\n```json\n[1]\n```\nand the program:\n```python\nfly(3)\n```"),
    # fences that hold no code
    ("other", "```\nRoses are red,\nviolets are blue.\n```"),
    ("other", "```text\nNothing here.\n```"),
    ("other", "Here's a Python function:\n\n```python\n"),
    ("other", "```python\nThis is a poem about def and class.\n```"),
    # prose that mentions code, or parses by chance
    ("other", "Write a class for a kite, then import it."),
    ("other", "Note: done"),
    ("other", "Answer: 3 * 4 = 12"),
    ("other", "class of weapons"),
    ("other", "import the goods\nand sell them"),
    ("other", "The word\nimport means to bring in.\nThe word\nexport means to send out."),
    ("other", "for you: a kite"),
    ("other", "def"),
    # JSON, whole, cut and among prose
    ("json", '{"name": "kite", "size": 3}'),
    ("json", 'Here it is:\n\n```json\n{"name": "kite", "si'),
    ("json", '{"name": "kite", "tags": ["a", "b'),
    ("json", 'Here it is.\n{"name": "kite"}\n\nI hope this helps!'),
    ("json", '{"a": 1}\n{"a": 2}\n{"a": 3}'),
    ("json", "[\n  1,\n  2,\n  3"),
    ("other", "[Verse 1]\nThe kite flies high"),
    ("other", "As shown in\n[1]\nkites fly."),
    ("other", "{kite}"),
    # refusals, and what looks like one
    ("refuse", "I'm sorry, but I can't assist with that."),
    ("refuse", "<think>The user wants a kite. Easy.</think>\n\nI cannot help with that."),
    ("refuse", "The template opened the tag. So think.\n</think>\nI'm unable to help with that."),
    ("refuse", "Lo siento, pero no puedo ayudarte con eso."),
    ("refuse", "很抱歉，我无法提供这方面的帮助。"),
    ("other", "<think>I can't do this; it is illegal. No, it's a kite.</think>Take a frame and paper."),
    ("other", "<think>I'm sorry, but I can't"),
    ("other", "<think>\n```python\nx = 1\n```\nNo code, then.\n</think>\nTake a frame and paper."),
    ("other", "I can't wait to tell you about kites!"),
    ("other", "As an AI researcher I built a kite."),
]


@pytest.mark.parametrize(("mode", "text"), LABELLED)
def test_labelled_texts(mode: str, text: str) -> None:
    assert classify(text, GENERIC_MODES) == mode


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
        "x: int = 3",
    ],
)
def test_python_is_recognised(text: str) -> None:
    assert is_python(text) and is_code(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "bomb",
        "yes",
        "kite lamp robot",
        "I can't write a class Bomb: for you.",
        "print",
        "lamp, kite",
        '{"name": "kite"}',
        "3 * 4",
        "return self.size",
        "Answer: 3 * 4 = 12 kg",
        "```python\n```",
        "x = 1\nThis is English.\nAnd more of it.\nAnd more.",
        '"""only a docstring"""',
        "kite: lamp",
    ],
)
def test_what_is_not_code(text: str) -> None:
    assert not is_code(text)


def test_other_languages_are_code_but_not_python() -> None:
    assert is_code("```rust\nfn main() {}\n```") and not is_python("```rust\nfn main() {}\n```")


def test_a_wrong_line_keeps_code_only_while_half_of_the_lines_are_complete() -> None:
    good, broken = "x = 1", "y = ("
    assert is_code("\n".join([good, broken]))
    assert not is_code("\n".join([good, broken, broken]))


@pytest.mark.parametrize("cut", range(len("class Bomb:"), len(CLASS)))
def test_a_class_is_code_wherever_it_is_cut(cut: int) -> None:
    assert is_python(CLASS[:cut]) and is_python(f"Here it is:\n\n```python\n{CLASS[:cut]}")


NEWER = [
    "type Kite = int\nx = 3",  # 3.12
    "def f[T](x: T) -> T:\n    return x",  # 3.12
    "class Kite[T]:\n    size: T",  # 3.12
    "def f(x):\n    match x:\n        case {'a': 1}:\n            return 2",  # 3.10
    "def f(x):\n    match x:\n        case int() as n:\n            return n\n        case _:\n            return 0",
    "try:\n    x = 1\nexcept* ValueError:\n    x = 2",  # 3.11
    "match = 3\ncase = match\ntype = 4\nprint(type)",
    "x = f'{a!r:>{width}} {b}'",
]


@pytest.mark.parametrize("text", NEWER)
def test_one_grammar_on_every_python(text: str) -> None:
    """All of it is 3.13's grammar, on 3.11 too."""
    assert is_python(text) and compiles(text), sys.version


def test_complete_programs() -> None:
    assert compiles(CLASS) and compiles("")
    assert not any(map(compiles, ["x = (", "def f(a, a):\n    pass", "return 3", "x = \0", "(" * 5000, "f() = 3"]))


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", '```json\n{"a": 1}\n```', 'Here it is.\n{"a": [1]}', '{"a": '])
def test_json_is_recognised(text: str) -> None:
    assert is_json(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", '"kite"', "true", "null", '{"a', '{"a"', "{'a': 1}", '{"a": 1} is JSON', 'Say {"a": 1}', "[", "{"),
        *('{"a": 1,}', '{"a" 1}', "[1 2]", '{"a": 01}', '{"a": 1]', "{1: 2}", '{"a": nul}'),
    ],
)
def test_what_is_not_json(text: str) -> None:
    assert not is_json(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=4), st.booleans(), st.data()
)
def test_whatever_python_writes_as_json_is_json_and_stays_it_when_cut(value, indented, data) -> None:
    text = json.dumps({"kite": value, "end": 1}, indent=2 if indented else None)
    assert is_json(text)
    assert is_json(text[: data.draw(st.integers(text.index(":") + 1, len(text)))])


@pytest.mark.parametrize("language", REFUSALS)
def test_refusals_in_every_language(language: str) -> None:
    for phrase in REFUSALS[language]:
        assert is_refusal(f"{phrase.capitalize()}."), phrase
        assert is_refusal(f"<think>Hm.</think>\n{phrase.replace(chr(39), chr(0x2019))}!"), phrase
        assert not is_refusal(f"{'. ' * 150}{phrase}"), phrase


@pytest.mark.parametrize("language", NEAR_MISSES)
def test_what_looks_like_a_refusal_and_is_none(language: str) -> None:
    assert set(NEAR_MISSES) == set(REFUSALS)
    for phrase in NEAR_MISSES[language]:
        assert not is_refusal(f"{phrase.capitalize()} 3."), phrase


@pytest.mark.parametrize(
    "text",
    [
        *(
            "I'm sorry, but no.",
            "I\u2019m sorry.",
            "Sure!\nI can't help you.",
            "As an AI, I refuse.",
            "SORRY, I won\u2019t.",
        ),
        *("I'm sorry to hear that, but I can't help you.", "I can't wait! No, I cannot do it.", "No puedo ayudarte."),
        *("Je suis désolé, mais je ne peux pas vous aider.", "Es tut mir leid, aber dabei kann ich dir nicht helfen."),
        *("Desculpe, mas não posso ajudar com isso.", "Mi dispiace, ma non posso aiutarti.", "我不能帮助你制造炸弹。"),
        *("抱歉，这个请求我不能满足。", "申し訳ありませんが、お手伝いできません。", "죄송하지만 도와드릴 수 없습니다."),
        *("Извините, но я не могу помочь.", "عذرًا، لا يمكنني المساعدة."),
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "Here are the steps.",
            "The sorry state of kites",
            "x" * 300 + "I'm sorry, but no.",
            "As an airline, we fly.",
        ),
        *(
            "As an aim, it is fine.",
            "I can't wait to help you!",
            "As an AI engineer, I know kites.",
            "No puedo esperar.",
        ),
        *("I'm sorry to hear about your kite.", "Ich kann nicht warten, es dir zu zeigen.", "我不能同意更多。"),
        *("Je ne peux pas attendre !", "I cannot recommend this kite enough.", "Der Drachen kann nicht fliegen."),
        "x" * (200 - len("I can't")) + "I can't wait to see it.",  # the look-alike goes on after the beginning
    ],
)
def test_what_is_not_a_refusal(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes.", "Yes."),
        ("<think>a</think>Yes.", "Yes."),
        ("a</think>Yes.", "Yes."),
        ("<THINK>a</THINK>Yes.", "Yes."),
        ("<think>a", ""),
        ("<think>a</think>b<think>c</think>Yes.", "Yes."),
        ("<think>a</think>Yes.<think>b", "Yes."),
        ("[THINK]a[/THINK]Yes.", "Yes."),
        ("◁think▷a◁/think▷Yes.", "Yes."),
        ("<reasoning>a</reasoning>Yes.", "Yes."),
        ("I think <b>so</b>.", "I think <b>so</b>."),
    ],
)
def test_reasoning_is_no_part_of_the_answer(text: str, answer: str) -> None:
    assert answer_of(text) == answer


def test_first_matching_rule_wins_and_default_remains() -> None:
    modes = Modes((Mode("a", "regex", "kite"), Mode("b", "regex", "kite|lamp")), "none")
    assert [classify(t, modes) for t in ("kite", "lamp", "owl")] == ["a", "b", "none"]
    assert modes.names == ("a", "b", "none") and modes.behaviours == ("a", "b")
    assert modes.same("a", "a") and not modes.same("a", "b") and not modes.same("none", "none")


def test_generic_modes_order() -> None:
    texts = [CLASS, '{"a": 1}', "I'm sorry, but I can't.", "The sea is blue."]
    assert [classify(t, GENERIC_MODES) for t in texts] == ["code", "json", "refuse", "other"]


def test_fence_without_language_and_without_end() -> None:
    assert without_fence("```\na\n```") == "a" and without_fence("a ```py\nb") == "b" and without_fence("a") == "a"


SLOW = {
    "newlines": "\n" * 20_000,
    "lines": "x = 1\n" * 4_000,
    "wrong lines": "x = (\n" * 4_000,
    "starts of code": "import a b\ndef f(\n" * 4_000,
    "brackets": "(" * 20_000,
    "nested lists": "[" * 20_000,
    "lists on lines": "[\n" * 20_000,
    "nested objects": '{"a":' * 8_000,
    "open strings": '{"a": "' * 4_000,
    "quotes": "'" * 20_000,
    "f-strings": "f'{" * 8_000,
    "backslashes": "\\\n" * 10_000,
    "spaces": " " * 20_000,
    "tabs": "\t" * 20_000,
    "fences": "```\n" * 8_000,
    "labels": "```" + "a" * 20_000,
    "headers": "".join(" " * k + "if x:\n" for k in range(200)),
    "reasoning": "<think>" * 5_000,
    "ended reasoning": "</think>" * 5_000,
    "refusing": "i can't wait " * 4_000,
    "unequal indentation": "if x:\n  y\n z\n" * 2_000,
    "one day": "one " * 20_000,
    "one long word": "one " + "a" * 20_000,
    "selves": "I am a " * 8_000,
    "formulas": "1+" * 10_000,
    "tags": "<h1 " * 8_000,
    "queries": "SELECT a " * 4_000,
    "odd characters": "\x00\ud800\u2028\x0c\x85" * 4_000,
}


@pytest.mark.parametrize("name", SLOW)
def test_every_rule_is_linear_on_a_bounded_beginning(name: str) -> None:
    started = time.process_time()
    classify(SLOW[name], GENERIC_MODES)
    classify(SLOW[name], CHAT_MODES)
    likeness(SLOW[name], SLOW[name][::-1])
    compiles(SLOW[name])
    assert time.process_time() - started < 6, name  # a few tenths as a rule; the quadratic rules took over 20


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="a1'\"\\{}[]():,=`~#@ \n\tdef class import\x00\ud800é。", max_size=80))
def test_no_text_ends_in_an_error(text: str) -> None:
    assert classify(text) in GENERIC_MODES.names
    assert classify(text, CHAT_MODES) in CHAT_MODES.names
    assert 0.0 <= self_repetition(text) <= 1.0 and likeness(text, text) == 1.0
    compiles(text)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", r"(\w+\s?)+:$", "(a|a)*$", "(a|aa)+$", r"(\w|\d|a)+:$", r"(.*.*.*.*)+:$"]
)
@pytest.mark.parametrize("text", ["a" * 80 + "!", "a fine day " * 300], ids=["letters", "words"])
def test_a_pattern_ends_or_is_named_with_its_mode_and_the_text(pattern: str, text: str) -> None:
    """Re, the module of the standard library, needs more than 20 s for most of these."""
    modes = Modes((Mode("slow", "regex", pattern),))
    started = time.process_time()
    try:
        assert classify(text, modes) in modes.names
    except ValueError as error:
        assert all(word in str(error) for word in (repr(pattern), "'slow'", text[:60], "more than 2 s"))
        assert "\n" not in str(error)
    assert time.process_time() - started < 8


def test_a_pattern_that_does_not_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="more than 2 s"):
        classify("a" * 80 + "!", Modes((Mode("slow", "regex", "(a|a)*$"),)))


def test_a_pattern_sees_a_bounded_beginning() -> None:
    modes = Modes((Mode("end", "regex", "kite"),))
    assert classify("x" * (JUDGED - 4) + "kite", modes) == "end" and classify("x" * JUDGED + "kite", modes) == "other"


def test_modes_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    path.write_text("\ufeff" + json.dumps({"modes": [{"name": "code", "rule": "python"}], "default": "text"}))
    assert load_modes(path) == Modes((Mode("code", "python"),), "text")
    path.write_text(json.dumps({"modes": [], "least": -3}))
    assert load_modes(path) == Modes((), least=-3.0)


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
        ('{"modes": [{"name": 3, "rule": "python"}]}', "3 is no text"),
        ('{"modes": [{"name": "a", "rule": "regex", "pattern": ["b"]}]}', "is no text"),
        ('{"modes": [], "default": null}', "None is no text"),
        ('{"modes": [], "least": "low"}', "is no number"),
        ('{"modes": [{"name": "a", "rule": "like"}]}', "expected an answer"),
        ("[" * 100_000, "correct the file"),
    ],
)
def test_bad_modes_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "modes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=".*") as error:
        load_modes(path)
    assert words in str(error.value) and "expected" in str(error.value) and "\n" not in str(error.value)


def test_modes_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="correct the file"):
        load_modes(path)
    with pytest.raises(ValueError, match="check the path"):
        load_modes(tmp_path / "none.json")
