"""Whether an answer calculates: equations and formulas, and the words that go with working one out."""

import re

from mi_ortho.behaviours.answers import answer_of, before_fences

BEGINNING = 600
_TERM = r"(?:\d+(?:[.,]\d+)*%?|\b[a-zA-Z]\b|π|\))(?:\s?[²³]|\^\{?\w+\}?)?"
_FORMULA = re.compile(
    _TERM + r"\s?[+*/×÷·=≈^−-]\s?(?:[-(√]\s?)*(?:\d|\b[a-zA-Z]\b|π)"
    r"|\d\s?[a-z]\b\s?[+=-]|\\frac|\\sqrt|\\times|\\\[|\\\(|\$\$|[a-z]\^\d|√\d|\d²|[a-z]²"
)
_WORKING = re.compile(
    r"\b(?:to (?:solve|calculate|compute|simplify|factor|evaluate|determine|find) (?:the|this|for|x|an?|it|\d)|"
    r"equations?|derivatives?|integrals?|the formula|calculated|multiply(?:ing)?|multiplied|divid(?:e|ed|ing)|"
    r"subtract(?:ing)?|add (?:up|the|them|\d)|the sum|the product|square root|numerator|denominator|"
    r"common denominator|variables?|mean of|equals|equal to|factoring|binomial|quadratic|perimeter|radius|"
    r"the (?:total )?number of|(?:have|take|buy|get|left with) \d+(?: more)?)\b",
    re.IGNORECASE,
)
_TASK = re.compile(
    r"\b(?:square root|cube root|perimeter|derivative|integral|power of|exponents?|percent(?:age)? of|the area|"
    r"(?:convert|calculate|compute|simplify|multiply|divide|subtract) \d|\d+ (?:hours?|minutes|seconds|km|miles) to)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\b\d+(?:[.,]\d+)*\b")


def is_mathematics(text: str) -> bool:
    """Whether an answer works on a calculation: two formulas, one with a word of calculating, or several such words.

    Two numbers do in place of a formula where the word names a task, such as a square root.

    >>> is_mathematics("12 + 7 = 19"), is_mathematics("To solve the equation, divide by x."), is_mathematics("Add it.")
    (True, True, False)
    """
    start = before_fences(answer_of(text))[:BEGINNING]
    formulas = len(_FORMULA.findall(start))
    words = {word.lower() for word in _WORKING.findall(start)}
    task = _TASK.search(start) is not None and len(_NUMBER.findall(start)) >= 2
    return task or formulas >= 2 or (formulas >= 1 and (len(words) >= 1 or len(start) < 40)) or len(words) >= 2
