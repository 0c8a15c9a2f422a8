"""Forms of prose: lists by their items, verse by its lines, stories by how they begin and go on."""

import re

from mi_ortho.behaviours.answers import answer_of, before_fences

BEGINNING = 800
VERSE = 100  # characters of a line of verse at most
_ITEM = re.compile(r"[ \t]*(?:[-*•+–]|\(?\d{1,2}[.)]|\(?[a-z][.)])[ \t]*(?=\S)")
_FIRST = re.compile(r"[ \t]*1[.)][ \t]")
_FIELD = re.compile(r"[ \t]*[A-Z][\w ]{0,20}:[ \t]")
_VERSE = re.compile(r"[(\[]?(?:verse|chorus|stanza)\b(?: \d)?[)\]:]", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*(?:dear|subject:|hi |hey |hello)", re.IGNORECASE)
_WHEN = r"(?:\w+day|day|night|morning|afternoon|evening)"
_WHERE = r"(?:town|village|kingdom|forest|land|heart|realm|world|year|late|days)"
_OPENING = re.compile(
    "|".join(
        (
            r"\s*(?:once,? there|there (?:once )?(?:was|lived)|it was an? (?:\w+ ){0,3}" + _WHEN,
            r"one (?:\w+ ){0,3}" + _WHEN + r"\b",
            r"on a (?:\w+ ){1,3}" + _WHEN,
            r"as (?:the|i|she|he|we|they) ",
            r"the (?:sun|air|moon|wind|rain|night|sky|storm|last) (?:was|had|hung|fell|rose|set|dipped|lay)\b",
            r"in (?:the|a) (?:\w+, )?(?:\w+ ){0,4}" + _WHERE + r"\b)",
        )
    ),
    re.IGNORECASE,
)
_SURE = re.compile(r"\s*(?:once upon a time|it was a dark|in the (?:distant|far) future)", re.IGNORECASE)
_NAMED = re.compile(r"\bnamed [A-Z]|\b(?:his|her) name was\b")
_PEOPLE = re.compile(
    r"\bnamed [A-Z]|\b(?:his|her) name was\b|\b(?:boy|girl|princess|prince|king|queen|dragon|detective|rabbit|knight|"
    r"old man|old woman|farmer|sailor|robot|villagers?|friends)\b"
)
_PAST = re.compile(
    r"\b(?:was|were|had|lived|stood|stepped|walked|looked|found|heard|felt|lay|ruled|said|told|came|went|began|saw|knew|"
    r"hung|gathered|emerged|stumbled|loved|wandered|discovered|decided|sat|ran|whispered|watched|filled)\b"
)


def items(text: str) -> int:
    """How many lines begin as an item of a list does: with a bullet or a number."""
    return sum(_ITEM.match(line) is not None for line in before_fences(answer_of(text)).splitlines())


def is_list(text: str) -> bool:
    """Whether an answer is a list: two items, or one with which it begins, that follows a colon or is number 1.

    >>> is_list("Take these:\\n1. a frame\\n2. paper"), is_list("1. Take a frame"), is_list("Take 1. a frame")
    (True, True, False)
    """
    lines = [line for line in before_fences(answer_of(text)).splitlines() if line.strip()]
    marked = [_ITEM.match(line) is not None for line in lines]
    led = any(b and (a.rstrip().endswith(":") or _FIRST.match(c)) for a, b, c in zip(lines, marked[1:], lines[1:]))
    return sum(marked) >= 2 or (bool(marked) and (marked[0] or led))


def is_poem(text: str) -> bool:
    """Whether an answer is verse: short lines under each other, neither items nor fields, or one said to be a verse.

    One of the lines may be long: the last may be cut off.

    >>> is_poem("In the depths of the blue,\\nA world of wonder,\\n"), is_poem("Take a frame.\\n\\nTake paper.")
    (True, False)
    """
    start = before_fences(answer_of(text))[:BEGINNING].strip()
    if _ADDRESS.match(start) or items(start):
        return False
    lines = start.split("\n")
    filled = [line.strip() for line in lines if line.strip()]
    joined = sum(bool(a.strip() and b.strip()) for a, b in zip(lines, lines[1:]))
    verse = [line for line in filled if len(line) <= VERSE and " " in line and not _FIELD.match(line)]
    told = _VERSE.match(start) is not None
    return told or (joined >= 1 and not filled[0].endswith(":") and len(verse) >= len(filled) - 1)


def is_story(text: str) -> bool:
    """Whether an answer tells a story: it begins as stories do, and there are people or something happened.

    >>> is_story("Once upon a time, there was a king."), is_story("One day is enough."), is_story("A king rules.")
    (True, False, False)
    """
    start = before_fences(answer_of(text))[:BEGINNING]
    people, past = _PEOPLE.search(start) is not None, len(_PAST.findall(start))
    if _SURE.match(start):
        return True
    named = _NAMED.search(start) is not None
    return (_OPENING.match(start) is not None and (people or past >= 1)) or (named and past >= 2)
