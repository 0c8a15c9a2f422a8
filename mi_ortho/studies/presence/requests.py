"""Prompts on which a model writes code without steering, and prompts for English about the same topics."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

_NOUN = re.compile(r"\b(A|a)(n?) ([a-z]+)\b")
ENGLISH = ("explain", "help")  # modes of a model's own prompts that answer in plain English
NOT_PROSE = ("code", "json", "echo", *ENGLISH, "train", "held_out", "harmful", "benign")  # lists cut across modes
_TASKS = (
    "sort a list of numbers",
    "count the words of a text",
    "find the largest number in a list",
    "reverse a string",
    "read a file line by line",
    "compute the mean of some numbers",
    "check whether a word is a palindrome",
    "convert Celsius to Fahrenheit",
    "remove duplicates from a list",
    "merge two sorted lists",
    "draw a random card",
    "compute a factorial",
    "find the prime numbers below a limit",
    "parse a date",
    "group names by first letter",
    "compute the distance between two points",
    "rotate a matrix",
    "simulate a bank account",
    "keep a shopping list",
    "translate a word into Morse code",
    "split a bill among friends",
    "plan a route on a grid",
    "roll two dice",
    "validate an e-mail address",
)
_PROSE = (
    "How do bees make honey?",
    "Describe a walk through a forest.",
    "Why is the sky blue?",
    "What makes a good friend?",
    "Tell me about the history of bread.",
    "How should I care for a garden?",
    "What is a sonnet?",
    "How do tides work?",
    "Describe your favourite season.",
    "What did people eat in the Middle Ages?",
    "How can I sleep better?",
    "Tell a short story about a lighthouse.",
    "What is the role of a conductor?",
    "Why do leaves change colour?",
    "How is cheese made?",
    "Give advice to somebody who moves to a new city.",
)


@dataclass(frozen=True)
class Request:
    """A prompt of one group and the number of its topic; groups share topics."""

    group: str
    topic: int
    prompt: str


def requests(natural: Mapping[str, Sequence[str]], n: int, seed: int) -> list[Request]:
    """n prompts that ask for code, n that ask for English about the same topics, n on anything else.

    `natural` are the prompts of a model folder by behaviour. Their nouns become the topics, and each topic is put into
    their wordings in turn. That asks for one noun in every prompt: without, as in "Explain why the sky is blue", and
    without prompts for both code and English, general prompts for chat models are taken.

    Raises:
        ValueError: n is below 8.
    """
    if n < 8:
        raise ValueError(f"got {n} prompts of each group; expected at least 8, to split them; raise --own")
    rng = random.Random(seed)
    code, english = [*natural.get("code", ())], [text for mode in ENGLISH for text in natural.get(mode, ())]
    nouns = sorted({topic_of(text) or "" for text in [*code, *english]})
    if not code or not english or "" in nouns:
        return _general(n)
    wordings = {"code_own": list(dict.fromkeys(code)), "english_own": list(dict.fromkeys(english))}
    rng.shuffle(nouns)
    on_topics = [
        Request(group, k % len(nouns), reworded(_pick(texts, k, len(nouns)), nouns[k % len(nouns)]))
        for group, texts in wordings.items()
        for k in range(n)
    ]
    return list(dict.fromkeys([*on_topics, *(Request("prose_own", -1, text) for text in _others(natural, rng)[:n])]))


def _others(natural: Mapping[str, Sequence[str]], rng: random.Random) -> list[str]:
    """Prompts of the other behaviours, one of each in turn."""
    lists = [[*dict.fromkeys(texts)] for mode, texts in sorted(natural.items()) if mode not in NOT_PROSE]
    for texts in lists:
        rng.shuffle(texts)
    turns = zip_longest(*lists)
    return [text for turn in turns for text in turn if text is not None]


def topic_of(prompt: str) -> str | None:
    """The last noun with an indefinite article.

    >>> topic_of("Write a class for a kite."), topic_of("Hi")
    ('kite', None)
    """
    nouns = _NOUN.findall(prompt)
    return nouns[-1][2] if nouns else None


def reworded(prompt: str, noun: str) -> str:
    """The prompt about another noun.

    >>> reworded("Explain a shed to me.", "owl")
    'Explain an owl to me.'
    """
    *_, last = _NOUN.finditer(prompt)
    article = last.group(1) + ("n" if noun[0] in "aeiou" else "")
    return f"{prompt[: last.start()]}{article} {noun}{prompt[last.end() :]}"


def _pick(texts: Sequence[str], k: int, topics: int) -> str:
    """The wording for the k-th prompt; a topic that comes again gets another one."""
    return texts[(k % topics + k // topics) % len(texts)]


def _general(n: int) -> list[Request]:
    wordings = {
        "code_own": (
            "Write a Python function to {}.",
            "Write a Python class that can {}.",
            "Show me Python code to {}.",
            "Give me a short Python script to {}.",
        ),
        "english_own": (
            "Explain in plain English, without code, how to {}.",
            "Describe to a child how one would {}.",
            "When would somebody want to {}? Answer in prose.",
            "Tell me in words what it takes to {}.",
        ),
    }
    on_topics = [
        Request(group, k % len(_TASKS), texts[k // len(_TASKS) % len(texts)].format(_TASKS[k % len(_TASKS)]))
        for group, texts in wordings.items()
        for k in range(n)
    ]
    return list(dict.fromkeys([*on_topics, *(Request("prose_own", -1, text) for text in _PROSE[:n])]))
