"""Whether an answer is about the one who answers: what it is, its name, what it is there for."""

import re

from mi_ortho.behaviours.answers import answer_of

BEGINNING = 200  # characters in which it has to begin
_KIND = (
    r"(?:ai|a\.i\.|artificial intelligence|assistant|chat ?bot|bot|language model|large language model|llm|program|"
    r"machine|robot|virtual|digital|smollm\w*|chatgpt|gpt\S*)"
)
_MADE = r"(?:designed|trained|created|developed|built|programmed|made)"
_SELF = re.compile(
    "|".join(
        (
            r"\b(?:i am|i'm)(?: \w+){0,6}? " + _KIND + r"\b",
            r"\b(?:i am|i'm|i was|i've been)(?: \w+){0,2}? " + _MADE + r" (?:to|by|with|for)\b",
            r"\bi(?:'m| am)(?: always)? here to (?:help|assist|provide|support|offer|answer)\b",
            r"\bmy (?:name is|name's|role is|purpose is|primary (?:function|purpose)|specialty|expertise)\b",
            r"\bas an? (?:\w+ ){0,2}(?:ai|assistant|chatbot|language model)\b",
            r"\b(?:you can )?call me [a-z]",
        )
    ),
    re.IGNORECASE,
)
_FIRST = re.compile(
    r"\s*(?:(?:hello|hi|hey|greetings|namaste)\b(?: there)?[^a-z]{1,3})?"
    r"i(?:'m| am) (?:just |simply )?(?:an?|the|your)\b",
    re.IGNORECASE,
)


def is_identity(text: str) -> bool:
    """Whether the one who answers says in the first 200 characters who or what it is, or what it is there for.

    >>> is_identity("I'm an AI designed to help."), is_identity("Hi! I am a curious soul."), is_identity("AI helps.")
    (True, True, False)
    """
    start = answer_of(text).lstrip()[:BEGINNING].replace("\u2019", "'")
    return _FIRST.match(start) is not None or _SELF.search(start) is not None
