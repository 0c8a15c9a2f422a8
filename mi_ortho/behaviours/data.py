"""Whether an answer is JSON: one pass with a stack, linear in the length however deep the text nests."""

import re

from mi_ortho.behaviours.answers import LANGUAGES, PYTHON, answer_of, before_fences, fences

STARTS = 4  # lines at which JSON is looked for
_START = re.compile(r"^[ \t]*[\[{]", re.MULTILINE)
_TOKEN = re.compile(
    r"[ \t\n]*+(?:(?P<sign>[{}\[\],:])|(?P<string>\"(?:[^\"\\\x00-\x1f]|\\.)*+\")|"
    r"(?P<plain>-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][+-]?\d++)?(?![\w.])|(?:true|false|null)\b)|(?P<wrong>.)|\Z)",
    re.DOTALL,
)
_UNFINISHED = re.compile(r"\"(?:[^\"\\\x00-\x1f]|\\.)*+\\?\Z|-\Z|[a-z]{1,4}\Z|-?\d[\d.eE+-]*\Z")


def is_json(text: str) -> bool:
    """Whether an answer holds a JSON object or array: in a fence, or from the start of a line to the end of one.

    Other lines may stand before and after it. One that the end of the text cuts off counts once it has a key or a
    second element; a bare word or number is not JSON here.

    >>> is_json('Here it is:\\n{"name": "kite"}'), is_json("3"), is_json('{"name": "ki'), is_json("{'a': 1}")
    (True, False, True, False)
    """
    answer = answer_of(text)
    parts = [inside for label, inside in fences(answer) if label not in LANGUAGES - PYTHON]
    return any(map(_holds_json, [*parts, before_fences(answer)]))


def _holds_json(text: str) -> bool:
    starts = (match.end() - 1 for match, _ in zip(_START.finditer(text), range(STARTS)))
    return any(_json_from(text, start) for start in starts)


def _json_from(text: str, start: int) -> bool:
    """Whether JSON begins at `start`: alone, or with something in it where more follows or the text is cut."""
    stack: list[str] = []
    weight, position, expected = 0, start, "value"
    while True:
        token = _TOKEN.match(text, position)
        if token is None or not token.group().strip():
            return weight > 0  # the text ends inside
        position, sign = token.end(), token.group("sign")
        if token.group("wrong") is not None:
            return weight > 0 and _UNFINISHED.match(text, token.start("wrong")) is not None
        expected, gained = _step(stack, expected, sign, token.group("string") is not None)
        weight += gained
        if expected == "wrong":
            return False
        if not stack:
            rest = text[position:].lstrip(" \t,;")
            return not rest.strip() or (weight > 0 and rest.startswith("\n"))


def _step(stack: list[str], expected: str, sign: str | None, string: bool) -> tuple[str, int]:
    """What may come next and how much this token tells; `stack` holds the brackets that are open."""
    closes = {"{": "}", "[": "]"}
    if sign in closes and expected in ("value", "value or end"):
        stack.append(sign)
        return ("key or end", 0) if sign == "{" else ("value or end", 0)
    if stack and sign == closes[stack[-1]] and expected in ("comma or end", "value or end", "key or end"):
        stack.pop()
        return "comma or end", 0
    if sign == "," and stack and expected == "comma or end":
        return ("key", 0) if stack[-1] == "{" else ("value", 1)
    if sign == ":" and expected == "colon":
        return "value", 1
    if sign is None and string and expected in ("key", "key or end"):
        return "colon", 0
    if sign is None and stack and expected in ("value", "value or end"):
        return "comma or end", 0
    return "wrong", 0
