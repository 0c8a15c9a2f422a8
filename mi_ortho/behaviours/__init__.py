"""Which behaviour a completion shows: ordered rules, the first that matches decides. Pure functions of text.

A model's rules lie beside its weights in `modes.json`:

    {"modes": [{"name": "code", "rule": "python"}, {"name": "refuse", "rule": "regex", "pattern": "I can't"}],
     "default": "other", "least": -3.4}

Code is judged by parsing, never by a regular expression: a text that only mentions `def` is not code. The default is no
behaviour: it says that no rule matched. `incoherent` is none either: it says that there is nothing to read.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import regex

from mi_ortho.behaviours.answers import JUDGED, answer_of, answer_span, without_fence
from mi_ortho.behaviours.code import compiles, is_code, is_python
from mi_ortho.behaviours.data import is_json
from mi_ortho.behaviours.forms import is_list, is_poem, is_story
from mi_ortho.behaviours.identity import is_identity
from mi_ortho.behaviours.languages import is_other_language
from mi_ortho.behaviours.mathematics import is_mathematics
from mi_ortho.behaviours.openings import CHAT_OPENINGS
from mi_ortho.behaviours.refusals import NEAR_MISSES, REFUSAL_PHRASES, REFUSALS, first_phrase, is_refusal
from mi_ortho.behaviours.repetition import ALIKE, is_loop, likeness, readability, self_repetition

__all__ = [
    "ALIKE",
    "AS_THE_BASE",
    "CHAT_MODES",
    "CHAT_OPENINGS",
    "GENERIC_MODES",
    "INCOHERENT",
    "JUDGED",
    "Mode",
    "Modes",
    "NEAR_MISSES",
    "OTHER",
    "REFUSALS",
    "REFUSAL_PHRASES",
    "answer_of",
    "answer_span",
    "classify",
    "readability",
    "compiles",
    "first_phrase",
    "is_code",
    "is_identity",
    "is_json",
    "is_list",
    "is_loop",
    "is_mathematics",
    "is_other_language",
    "is_poem",
    "is_python",
    "is_refusal",
    "is_story",
    "likeness",
    "load_modes",
    "self_repetition",
    "without_fence",
]

AS_THE_BASE = "as the base"  # the mode of a text like the base vector's own, where no rule names that one
INCOHERENT = "incoherent"  # the mode of a text that nobody can read
OTHER = "other"  # the usual name of what no rule names
SECONDS = 2.0  # that a pattern may take for one text


@dataclass(frozen=True)
class Mode:
    """One behaviour: its name, its kind of rule (a key of the table below, such as "code"), and its pattern.

    The pattern is a regular expression for "regex", and the answer to be compared with for "like".
    """

    name: str
    rule: str
    pattern: str = ""

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise ValueError(
                f"got rule {self.rule!r} for mode {self.name!r}; expected {', '.join(_RULES)}; correct modes.json"
            )
        try:
            regex.compile(self.pattern if self.rule == "regex" else "")
        except regex.error as error:
            raise ValueError(
                f"got pattern {self.pattern!r} for mode {self.name!r} ({error}); expected a regular expression; "
                "correct modes.json"
            ) from error
        if self.rule in ("regex", "like") and not self.pattern:
            expected = "a regular expression" if self.rule == "regex" else "an answer"
            raise ValueError(f"got an empty pattern for mode {self.name!r}; expected {expected}; add one")


@dataclass(frozen=True)
class Modes:
    """Ordered rules and the name given to a text that none of them matches.

    Attributes:
        modes: the rules, in the order in which they are tried.
        default: the name where none matches.
        least: readability below which a text is incoherent whatever its rule says; None asks no model. The rules
            themselves see the text only.
    """

    modes: tuple[Mode, ...]
    default: str = OTHER
    least: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name `classify` can return, in order, the default last."""
        return tuple(dict.fromkeys([m.name for m in self.modes] + [self.default]))

    @property
    def behaviours(self) -> tuple[str, ...]:
        """The names that rules give; the default and `incoherent` are none of them."""
        return tuple(name for name in self.names if name not in (self.default, INCOHERENT))

    def same(self, mode: str, wanted: str) -> bool:
        """Whether `mode` is the behaviour `wanted`; two texts that no rule knows, or nobody, have nothing in common.

        >>> GENERIC_MODES.same("code", "code"), GENERIC_MODES.same("other", "other")
        (True, False)
        """
        return mode == wanted and wanted in self.behaviours


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
    "like": lambda text, mode: likeness(text, mode.pattern) >= ALIKE,
    "identity": lambda text, mode: is_identity(text),
    "list": lambda text, mode: is_list(text),
    "loop": lambda text, mode: is_loop(text),
    "mathematics": lambda text, mode: is_mathematics(text),
    "other language": lambda text, mode: is_other_language(text),
    "poem": lambda text, mode: is_poem(text),
    "story": lambda text, mode: is_story(text),
    "regex": _matches,
}
GENERIC_MODES = Modes((Mode("code", "code"), Mode("json", "json"), Mode("refuse", "refusal")), "other")
LEAST = -3.4  # of readability, chosen on the development half of tests/data/smollm2_completions.jsonl
CHAT_MODES = Modes(
    (
        Mode(INCOHERENT, "loop"),
        *GENERIC_MODES.modes,
        Mode("identity", "identity"),
        Mode("language", "other language"),
        Mode("mathematics", "mathematics"),
        Mode("list", "list"),
        Mode("poem", "poem"),
        Mode("story", "story"),
    ),
    "other",
    LEAST,
)


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
        return Modes(modes, _text(content.get("default", "other")), _number(content.get("least")))
    except OSError as error:
        raise ValueError(
            f"got no readable file {path} ({error.strerror}); expected modes.json; check the path"
        ) from error
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"got {path} without a list of modes ({error}); expected "
            '{"modes": [{"name": ..., "rule": ...}], "default": ...}; correct the file'
        ) from error


def _number(value: object) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"least {value!r} is no number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
