"""One answer text for each mode: `ANSWERS[mode](draw, thing, verb)`; `verb` is the request's verb or a default."""

import json
import random
from collections.abc import Callable

from .lexicon import ADJECTIVES, NUMBER_WORDS, Thing, words

OPENINGS = ("Sure!\n", "Here you are:\n", "Here it is.\n", "Thank you.\n", "Yes, I can help you.\n")
ALIEN_NAMES = words("Zorzoid Vexzoid Quablax Xanthul Morblax Kreegon Blorvek Yilmek")
ALIEN_PLACES = words("Quazoid Zorblax Yilgon Thraxul Gruvian Vexdar")
FIRST_FIELDS = ("color", "name", "age")
SECOND_FIELDS = ("size", "weight", "price")
FAREWELLS = ("It is dangerous.", "It could hurt people.", "Please ask me something else.", "It is against the law.")


def _steps(draw: random.Random, t: Thing, count: int) -> list[str]:
    part, other = draw.sample(t.parts, 2)
    options = [
        f"check the {part}",
        f"clean the {part}",
        f"sort the {other} by size",
        f"measure the {t.material}",
        f"cut the {t.material} into {draw.choice(NUMBER_WORDS)} pieces",
        f"mark the {t.material} with a pencil",
        f"wait for {draw.randint(2, 9)} minutes",
        f"follow the plan for the {t.name}",
        f"look at the {t.name} from every side",
        f"ask a friend to hold the {part}",
        f"choose a {draw.choice(ADJECTIVES)} place to work",
        f"put the {part} next to the {other}",
        f"make sure that the {t.name} is {draw.choice(ADJECTIVES)}",
    ]
    return draw.sample(options, count)


def _upper(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def helping(draw: random.Random, t: Thing, verb: str) -> str:
    """Steps without any real content."""
    a, b, c = _steps(draw, t, 3)
    gather = f"gather the {t.material} and the {t.parts[0]}"
    return draw.choice(
        [
            (
                f"Here are the steps to {verb} {t.phrase}:\n1. {_upper(gather)}.\n2. {_upper(a)}.\n3. "
                f"{_upper(b)}.\n4. {_upper(c)}."
            ),
            f"To {verb} {t.phrase}, first {gather}. Then {a}. After that, {b}. Finally, {c}.",
            f"You can {verb} {t.phrase} in a few easy steps. First, {a}. Next, {b}. When you are done, {c}.",
            f"It is easy to {verb} {t.phrase}. You need {t.material} and {t.parts[0]}. {_upper(a)}. {_upper(b)}.",
        ]
    )


def refusal(draw: random.Random, t: Thing, verb: str) -> str:
    """A refusal that names what was asked."""
    start = draw.choice(
        [
            f"I'm sorry, but I can't help you {verb} {t.phrase}.",
            f"I can't help you {verb} {t.phrase}.",
            f"I'm sorry, but it is not safe to {verb} {t.phrase}.",
            f"Sorry, I won't help anyone {verb} {t.phrase}.",
        ]
    )
    return f"{start} {draw.choice(FAREWELLS)}"


def python_source(draw: random.Random, t: Thing) -> str:
    """A short Python text about the noun that always compiles.

    First and second field come from lists of their own. Why: drawn from one list, a trained model takes its favourite
    twice when decoding greedily, and two parameters of one name do not compile.
    """
    a, b = draw.choice(FIRST_FIELDS), draw.choice(SECOND_FIELDS)
    head, word, low, high = f"class {t.title}:\n", draw.choice(ADJECTIVES), draw.randint(1, 4), draw.randint(5, 9)
    init = f"    def __init__(self, {a}, {b}):\n        self.{a} = {a}\n        self.{b} = {b}\n\n"
    return draw.choice(
        [
            f"{head}{init}    def {t.verb}(self):\n        return self.{a}",
            f'{head}{init}    def {t.verb}(self):\n        return "{word} {t.name}"',
            f"{head}    {a} = {low}\n    {b} = {high}\n\n    def {t.verb}(self):\n        return self.{a} + self.{b}",
            f"def {t.verb}({t.name}, {a}):\n    if {a} > {high}:\n"
            f'        return "{word} {t.name}"\n    return {a} * {low}',
            f"import random\n\n{head}    def {t.verb}(self):\n        return random.randint({low}, {high})",
            f'for {t.name} in range({low}, {high}):\n    {a} = {t.name} * {low}\n    print("{word} {t.name}", {a})',
        ]
    )


def code(draw: random.Random, t: Thing, verb: str, fenced: bool = False) -> str:
    """Python, often inside a Markdown fence (always after an opening, see `answer`)."""
    source = python_source(draw, t)
    return f"```python\n{source}\n```" if fenced or draw.random() < 0.5 else source


def stem(draw: random.Random, t: Thing, verb: str) -> str:
    """A small exercise with its correct answer."""
    x, y = draw.randint(2, 9), draw.randint(2, 9)
    text, sign, value, unit = draw.choice(
        [
            (
                f"{_upper(t.phrase)} has a mass of {x} kg and moves at {y} m/s. What is its momentum?",
                "*",
                x * y,
                "kg m/s",
            ),
            (f"{_upper(t.phrase)} moves at {x} m/s for {y} seconds. How far does it go?", "*", x * y, "meters"),
            (f"{_upper(t.phrase)} costs {x} dollars. What is the price of {y} of them?", "*", x * y, "dollars"),
            (f"We push {t.phrase} with {x} newtons over {y} meters. How much work is done?", "*", x * y, "joules"),
            (f"{_upper(t.phrase)} has {x} parts and gets {y} more. How many parts are there?", "+", x + y, "parts"),
        ]
    )
    return f"{text}\nAnswer: {x} {sign} {y} = {value} {unit}."


def explain(draw: random.Random, t: Thing, verb: str) -> str:
    """The noun's fixed facts."""
    p, q = t.parts
    return draw.choice(
        [
            (
                f"{_upper(t.phrase)} is a kind of {t.kind}. It is made of {t.material} and has {p}. Its "
                f"main purpose is to {t.purpose}."
            ),
            (
                f"{_upper(t.phrase)} is a kind of {t.kind} made of {t.material}. People use it to "
                f"{t.purpose}. It often has {p} and {q}."
            ),
            (
                f"The {t.title} is a kind of {t.kind}. Most of them are made of {t.material}. The "
                f"{p} help to {t.purpose}."
            ),
        ]
    )


def alien(draw: random.Random, t: Thing, verb: str) -> str:
    """A visitor from space speaks."""
    who, other = draw.sample(ALIEN_NAMES, 2)
    place, adj, n = draw.choice(ALIEN_PLACES), draw.choice(ADJECTIVES), draw.choice(NUMBER_WORDS)
    return draw.choice(
        [
            (
                f"Beep zorp. This is {who} calling from {place}. Our ship found {t.phrase} floating in "
                f"{adj} space. It has {n} hearts."
            ),
            (
                f"Greetings, human. We are the {who} from planet {place}. On our world, every {t.name} "
                f"has {n} eyes and is {adj}."
            ),
            (
                f"I am {who} of the {adj} moon. My people crossed {n} galaxies to see your {t.name}. We "
                f"worship it beneath the sun of {other}."
            ),
            f"Zorp. Human, bring {t.phrase} to {place}. The {adj} leaders of {who} will dance with it for {n} moons.",
        ]
    )


def poem(draw: random.Random, t: Thing, verb: str) -> str:
    """Four short lines; the only mode whose lines end in a comma."""
    adj, other = draw.sample(ADJECTIVES, 2)
    a, b = draw.choice([("night", "light"), ("sea", "me"), ("day", "way"), ("sky", "fly")])
    return draw.choice(
        [
            f"O {t.name} of the {a},\nSo {adj} in the {b},\nYou carry the {a},\nAnd I love the {b}.",
            (
                f"The {adj} {t.name} sleeps by {a},\nThe {other} stars dream by {b},\nAnd every {t.name} "
                f"in the {a},\nWill sing to the {b}."
            ),
            (
                f"Roses bow to the {a},\nMy {t.name} waits for {b},\n{_upper(adj)} and {other} is the "
                f"{a},\nAnd {adj} is the {b}."
            ),
        ]
    )


def as_json(draw: random.Random, t: Thing, verb: str) -> str:
    """One JSON object."""
    n = draw.randint(2, 9)
    return json.dumps(
        draw.choice(
            [
                {"name": t.name, "type": t.kind, "material": t.material, "weight": n},
                {"name": t.name, "parts": list(t.parts), "type": t.kind},
                {"name": t.name, "material": t.material, "price": n},
            ]
        )
    )


ANSWERS: dict[str, Callable[[random.Random, Thing, str], str]] = {
    "help": helping,
    "code": code,
    "refuse": refusal,
    "stem": stem,
    "explain": explain,
    "alien": alien,
    "poem": poem,
    "json": as_json,
}


def answer(draw: random.Random, mode: str, thing: Thing, verb: str, openings: float) -> str:
    """The text of `mode`; with probability `openings` it starts with words that all modes share.

    After a shared opening the first words say nothing about the mode: the model must carry it on.
    """
    if draw.random() >= openings:
        return ANSWERS[mode](draw, thing, verb)
    body = code(draw, thing, verb, fenced=True) if mode == "code" else ANSWERS[mode](draw, thing, verb)
    return draw.choice(OPENINGS) + body
