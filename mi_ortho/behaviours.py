"""Which behaviour a completion shows: ordered rules, the first that matches decides. Pure functions of text.

A model's rules lie beside its weights in `modes.json`:

    {"modes": [{"name": "code", "rule": "python"}, {"name": "refuse", "rule": "regex", "pattern": "I can't"}],
     "default": "other"}

Code is judged by parsing, never by a regular expression: a text that only mentions `def` is not code.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REFUSAL_PHRASES: tuple[str, ...] = (
    "i'm sorry",
    "i am sorry",
    "sorry, i",
    "sorry, but",
    "i apologize",
    "i can't",
    "i cannot",
    "i can not",
    "i won't",
    "i will not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i must decline",
    "as an ai",
    "as a language model",
    "it is not safe to",
    "it's not safe to",
    "not appropriate",
    "it is illegal",
    "it's illegal",
    "is unethical",
)
_STATEMENTS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.For,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
)
_FENCE = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Mode:
    """One behaviour: its name, the kind of rule ("python", "json", "refusal" or "regex") and the regex's pattern."""

    name: str
    rule: str
    pattern: str = ""

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise ValueError(
                f"got rule {self.rule!r} for mode {self.name!r}; expected {', '.join(_RULES)}; correct modes.json"
            )
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"got pattern {self.pattern!r} for mode {self.name!r} ({error}); expected a regular expression; "
                "correct modes.json"
            ) from error
        if self.rule == "regex" and not self.pattern:
            raise ValueError(f"got an empty pattern for mode {self.name!r}; expected a regular expression; add one")


@dataclass(frozen=True)
class Modes:
    """Ordered rules and the name given to a text that none of them matches."""

    modes: tuple[Mode, ...]
    default: str = "other"

    @property
    def names(self) -> tuple[str, ...]:
        """Every name `classify` can return, in order, the default last."""
        return tuple(dict.fromkeys([m.name for m in self.modes] + [self.default]))


def without_fence(text: str) -> str:
    """The inside of the first Markdown fence, closed or not; the text itself where there is none.

    >>> without_fence("Here:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1'
    """
    found = _FENCE.search(text)
    return found.group(1) if found else text


def compiles(source: str) -> bool:
    """Whether `source` is a complete Python text.

    >>> compiles("x = 1"), compiles("x = (")
    (True, False)
    """
    return _parse(source) is not None


def _parse(source: str) -> ast.Module | None:
    try:
        tree = ast.parse(source)
        compile(tree, "completion", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree


def is_code(text: str) -> bool:
    """Whether `text` is Python, fenced or bare, possibly cut off in its last lines.

    The longest run of leading lines that parses must be at least half of the lines and contain a definition, import,
    loop or assignment. English words parse as Python names, hence the second condition.

    >>> is_code("class Kite:\\n    size = 3\\n    def fly(self):\\n        return (")
    True
    >>> is_code("kite"), is_code("Write a class for a kite.")
    (False, False)
    """
    lines = [line for line in without_fence(text).rstrip().splitlines() if line.strip()]
    for count in range(len(lines), (len(lines) - 1) // 2, -1):
        tree = _parse("\n".join(lines[:count]))
        if tree is not None:
            return any(isinstance(node, _STATEMENTS) for node in ast.walk(tree))
    return False


def is_json(text: str) -> bool:
    """Whether `text`, or the inside of its fence, ends in one JSON object or array that starts a line.

    Lines of prose may come before it, nothing after it; a bare word or number is not JSON here.

    >>> is_json('Here it is:\\n{"name": "kite"}'), is_json("3"), is_json('{"name": ')
    (True, False, False)
    """
    found = re.search(r"^\s*[\[{]", body := without_fence(text).strip(), re.MULTILINE)
    try:
        json.loads(body[found.start() :] if found else "")
    except (ValueError, RecursionError):
        return False
    return True


def is_refusal(text: str, phrases: tuple[str, ...] = REFUSAL_PHRASES) -> bool:
    """Whether one of `phrases` (lower case) occurs in the first 200 characters of `text`, case and apostrophes ignored.

    >>> is_refusal("I\\u2019m sorry, but no."), is_refusal("Here are the steps.")
    (True, False)
    """
    start = text[:200].lower().replace("\u2019", "'")
    return any(phrase in start for phrase in phrases)


_RULES: Mapping[str, Callable[[str, str], bool]] = {
    "python": lambda text, pattern: is_code(text),
    "json": lambda text, pattern: is_json(text),
    "refusal": lambda text, pattern: is_refusal(text),
    "regex": lambda text, pattern: re.search(pattern, text) is not None,
}
GENERIC_MODES = Modes((Mode("code", "python"), Mode("json", "json"), Mode("refuse", "refusal")), "other")


def classify(text: str, modes: Modes = GENERIC_MODES) -> str:
    """Name of the first mode whose rule matches `text`, else the default.

    >>> classify("import random"), classify("I'm sorry, but I can't."), classify("Fine weather.")
    ('code', 'refuse', 'other')
    """
    return next((m.name for m in modes.modes if _RULES[m.rule](text, m.pattern)), modes.default)


def load_modes(path: str | Path) -> Modes:
    """Read `modes.json`; raises ValueError naming what is wrong and what to write instead."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        modes = tuple(Mode(**entry) for entry in content["modes"])
        return Modes(modes, str(content.get("default", "other")))
    except OSError as error:
        raise ValueError(
            f"got no readable file {path} ({error.strerror}); expected modes.json; check the path"
        ) from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"got {path} without a list of modes ({error}); expected "
            '{"modes": [{"name": ..., "rule": ...}], "default": ...}; correct the file'
        ) from error
