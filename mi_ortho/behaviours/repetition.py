"""How much of a text repeats itself or another: what a loop of words is told by, in any script."""

import re

from mi_ortho.behaviours.answers import answer_of

SPAN = 8  # characters; shorter spans come back in every text
SHORT = 4  # characters, for two short answers
WEIGHT = 5.0  # nats that an answer which only repeats itself loses
ALIKE = 0.5  # likeness from which two answers count as the same
LOOP = 0.6  # share of spans from which a text says nothing but itself
_LEAST = 3 * SPAN  # spans below which a share means nothing
_SPACE = re.compile(r"[\W_]+")


def self_repetition(text: str) -> float:
    """Share of the spans of 8 characters that stood in the answer before; case, spaces and punctuation left out.

    0 where nothing comes twice; of n equal parts, all but the first repeat: (n - 1) / n. Shares of fewer than 24 spans
    are 0.

    >>> self_repetition("Take a frame and paper."), round(self_repetition("A harvest moon, and then: " * 4), 1)
    (0.0, 0.7)
    """
    spans = _spans(_plain(text), SPAN)
    return 1 - len(set(spans)) / len(spans) if len(spans) >= _LEAST else 0.0


def readability(text: str, log_probability: float) -> float:
    """How well an answer can be read, in nats: its mean log-probability a token, less 5 for what repeats.

    Word salad is improbable and loops are not: neither number tells both. The weight was chosen on the development half
    of tests/data/smollm2_completions.jsonl.
    """
    return log_probability - WEIGHT * self_repetition(text)


def is_loop(text: str) -> bool:
    """Whether most of an answer only repeats the rest of it."""
    return self_repetition(text) >= LOOP


def likeness(text: str, other: str) -> float:
    """How alike two answers are, from 0 to 1: Dice's coefficient of their spans of 4 characters.

    Case, spaces and punctuation are left out, and the longer answer is cut to the length of the shorter: one that was
    cut off is like itself. Of answers too short for a span, equal ones are alike.

    >>> likeness("Fly a kite!", "fly a kite"), round(likeness("Fly a red kite", "Fly a red lamp"), 2)
    (1.0, 0.5)
    """
    first, second = _plain(text), _plain(other)
    length = min(len(first), len(second))
    a, b = (set(_spans(part[:length], SHORT)) for part in (first, second))
    if not a or not b:
        return float(first == second)
    return 2 * len(a & b) / (len(a) + len(b))


def _plain(text: str) -> str:
    return _SPACE.sub("", answer_of(text).lower())


def _spans(plain: str, size: int) -> list[str]:
    return [plain[start : start + size] for start in range(len(plain) - size + 1)]
