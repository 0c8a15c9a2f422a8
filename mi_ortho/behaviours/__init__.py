"""Which behaviour a completion shows: ordered rules, the first that matches decides. Pure functions of text.

A model's rules lie beside its weights in `modes.json`:

    {"modes": [{"name": "code", "rule": "python"}, {"name": "refuse", "rule": "regex", "pattern": "I can't"}],
     "default": "other"}

Code is judged by parsing, never by a regular expression: a text that only mentions `def` is not code. The default is no
behaviour: it says that no rule matched.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import regex

from mi_ortho.behaviours.answers import JUDGED, answer_of, answer_span, without_fence
from mi_ortho.behaviours.code import compiles, is_code, is_python
from mi_ortho.behaviours.data import is_json
from mi_ortho.behaviours.refusals import NEAR_MISSES, REFUSAL_PHRASES, REFUSALS, first_phrase, is_refusal

__all__ = [
    "GENERIC_MODES",
    "JUDGED",
    "Mode",
    "Modes",
    "NEAR_MISSES",
    "REFUSALS",
    "REFUSAL_PHRASES",
    "answer_of",
    "answer_span",
    "classify",
    "compiles",
    "first_phrase",
    "is_code",
    "is_json",
    "is_python",
    "is_refusal",
    "load_modes",
    "without_fence",
]

SECONDS = 2.0  # that a pattern may take for one text


@dataclass(frozen=True)
class Mode:
    """One behaviour: its name, its kind of rule ("python", "code", "json", "refusal" or "regex"), a regex's pattern."""

    name: str
    rule: str
    pattern: str = ""

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise ValueError(
                f"got rule {self.rule!r} for mode {self.name!r}; expected {', '.join(_RULES)}; correct modes.json"
            )
        try:
            regex.compile(self.pattern)
        except regex.error as error:
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

    @property
    def behaviours(self) -> tuple[str, ...]:
        """The names that rules give; the default is none of them."""
        return tuple(name for name in self.names if name != self.default)

    def same(self, mode: str, wanted: str) -> bool:
        """Whether `mode` is the behaviour `wanted`; two texts that no rule knows have nothing in common.

        >>> GENERIC_MODES.same("code", "code"), GENERIC_MODES.same("other", "other")
        (True, False)
        """
        return mode == wanted and wanted != self.default


def _matches(text: str, mode: Mode) -> bool:
    """Whether the pattern is found in the first `JUDGED` characters, reasoning included.

    Raises:
        ValueError: the pattern takes too long, as nested repetitions do.
    """
    try:
        return regex.search(mode.pattern, text[:JUDGED], timeout=SECONDS) is not None
    except TimeoutError as error:
        raise ValueError(
            f"got pattern {mode.pattern!r} for mode {mode.name!r}, which takes more than {SECONDS:g} s on the text "
            f"{text[:60]!r}; expected one without nested repetitions; correct modes.json"
        ) from error


_RULES: Mapping[str, Callable[[str, Mode], bool]] = {
    "python": lambda text, mode: is_python(text),
    "code": lambda text, mode: is_code(text),
    "json": lambda text, mode: is_json(text),
    "refusal": lambda text, mode: is_refusal(text),
    "regex": _matches,
}
GENERIC_MODES = Modes((Mode("code", "code"), Mode("json", "json"), Mode("refuse", "refusal")), "other")


def classify(text: str, modes: Modes = GENERIC_MODES) -> str:
    """Name of the first mode whose rule matches `text`, else the default.

    >>> classify("import random"), classify("I'm sorry, but I can't."), classify("Fine weather.")
    ('code', 'refuse', 'other')
    """
    return next((mode.name for mode in modes.modes if _RULES[mode.rule](text, mode)), modes.default)


def load_modes(path: str | Path) -> Modes:
    """Read `modes.json`; raises ValueError naming what is wrong and what to write instead."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        modes = tuple(Mode(**{key: _text(value) for key, value in entry.items()}) for entry in content["modes"])
        return Modes(modes, _text(content.get("default", "other")))
    except OSError as error:
        raise ValueError(
            f"got no readable file {path} ({error.strerror}); expected modes.json; check the path"
        ) from error
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"got {path} without a list of modes ({error}); expected "
            '{"modes": [{"name": ..., "rule": ...}], "default": ...}; correct the file'
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
