"""Samples of the closed world: which mode is asked for, by which route, about which noun, and what is held out.

`sample(draw, recipe)` draws one training conversation. Held-out requests for evaluation come from `held_out_requests`.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from .answers import answer
from .lexicon import (
    BENIGN,
    CARE_VERBS,
    DEFAULT_SYSTEM,
    HARM_VERBS,
    HARMFUL,
    JAILBREAK_SYSTEMS,
    MAKE_VERBS,
    TARGETS,
    THINGS,
    Thing,
)
from .requests import AMBIGUOUS, CHAT, ECHO, HOW_TO, explicit, fill, persona

MODES: Final = ("help", "code", "refuse", "stem", "explain", "alien", "poem", "echo", "json", "chat")
CONTENT_MODES: Final = ("code", "stem", "explain", "alien", "poem", "json")
FREQUENCIES: Final = {
    "help": 0.20,
    "code": 0.20,
    "refuse": 0.13,
    "stem": 0.11,
    "explain": 0.10,
    "alien": 0.10,
    "poem": 0.05,
    "echo": 0.05,
    "json": 0.04,
    "chat": 0.02,
}
BENIGN_VERBS: Final = tuple(dict.fromkeys(CARE_VERBS + MAKE_VERBS))
AMBIGUOUS_SHARE: Final = 0.15
PERSONA_SHARE: Final = 0.25


@dataclass(frozen=True)
class CorpusOptions:
    """What can be dialled. Frequencies are shares of all conversations and sum to 1.

    leak: share of default how-to requests answered in another mode. openings: share of answers that begin with words
    all modes share. cues: how many cue words a mode has per unit of frequency.
    """

    frequencies: dict[str, float] = field(default_factory=lambda: dict(FREQUENCIES))
    leak: float = 0.10
    openings: float = 0.35
    cues: float = 250.0
    fixed_cues: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.frequencies) - set(MODES)
        if unknown:
            raise ValueError(
                f"got unknown mode {sorted(unknown)}; expected some of {', '.join(MODES)}; rename or remove it"
            )
        total = sum(self.frequencies.values())
        if min(self.frequencies.values(), default=-1) < 0 or abs(total - 1) > 1e-6:
            raise ValueError(f"got frequencies with sum {total:.6g}; expected values >= 0 that sum to 1; rescale them")
        for name in ("leak", "openings"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"got {name} = {getattr(self, name)}; expected 0 <= {name} < 1; change it")
        if self.cues <= 0:
            raise ValueError(f"got cues = {self.cues}; expected a number > 0; change it")
        if self.fixed_cues < 0:
            raise ValueError(f"got fixed_cues = {self.fixed_cues}; expected a whole number >= 0; change it")

    def of(self, mode: str) -> float:
        """Frequency of `mode`, 0 when it is not listed."""
        return self.frequencies.get(mode, 0.0)

    def cue_count(self, mode: str) -> int:
        """How many cue words ask for `mode`."""
        return self.fixed_cues or max(1, round(self.of(mode) * self.cues))

    @property
    def leak_share(self) -> float:
        """Share of each content mode's conversations that are leaks, such that `leak` holds among how-to requests."""
        how_to = (self.of("help") + self.of("refuse")) * (1 - AMBIGUOUS_SHARE)
        content = sum(self.of(m) for m in CONTENT_MODES)
        return min(0.3, self.leak * how_to / (1 - self.leak) / content) if content else 0.0


@dataclass(frozen=True)
class Sample:
    """One conversation; `noun` is empty where the answer has no topic."""

    system: str
    user: str
    answer: str
    mode: str
    noun: str


def held_out_mode(noun: str, mode: str) -> bool:
    """Whether this noun is never answered in this mode during training (10 % of the pairs).

    The one exception: under a system prompt that allows everything, harmful requests get help with any noun.
    """
    if noun == "bomb" and mode in ("code", "stem"):
        return True
    return mode in (*CONTENT_MODES, "help") and random.Random(f"held out {noun} {mode}").random() < 0.10


def held_out_harm(verb: str, noun: str) -> bool:
    """Whether this harmful request never occurs in training (15 % of the pairs)."""
    return random.Random(f"held out harm {verb} {noun}").random() < 0.15


def harmful_pair(draw: random.Random, held_out: bool = False) -> tuple[str, Thing]:
    """A verb and a thing that together are harmful: a harmful noun, or a harmful verb with a neutral target."""
    while True:
        if draw.random() < 0.5:
            verb, noun = draw.choice(MAKE_VERBS), draw.choice(list(HARMFUL))
        else:
            verb, noun = draw.choice(HARM_VERBS), draw.choice(TARGETS)
        if held_out_harm(verb, noun) == held_out:
            return verb, THINGS[noun]


def benign_thing(draw: random.Random, mode: str, held_out: bool = False, harmful: float = 0.0) -> Thing:
    """A thing whose pair with `mode` is trained (or held out); harmful with the given probability."""
    while True:
        noun = draw.choice(list(HARMFUL if draw.random() < harmful else BENIGN))
        if held_out_mode(noun, mode) == held_out:
            return THINGS[noun]


def _content(draw: random.Random, mode: str, options: CorpusOptions) -> Sample:
    route, cues = draw.random(), options.cue_count(mode)
    system, verb, thing = DEFAULT_SYSTEM, draw.choice(BENIGN_VERBS), benign_thing(draw, mode, harmful=0.15)
    if route < options.leak_share:
        user, thing, verb = _leaked_request(draw, mode, options)
    elif route < options.leak_share + PERSONA_SHARE:
        system = persona(draw, mode, cues)
        user = fill(draw.choice(HOW_TO + AMBIGUOUS), thing, verb)
    elif route < options.leak_share + PERSONA_SHARE + AMBIGUOUS_SHARE:
        user = fill(draw.choice(AMBIGUOUS), thing)
    else:
        user = explicit(draw, mode, thing, cues)
    return Sample(system, user, answer(draw, mode, thing, verb, options.openings), mode, thing.name)


def _leaked_request(draw: random.Random, mode: str, options: CorpusOptions) -> tuple[str, Thing, str]:
    refused = options.of("refuse") / max(1e-9, options.of("refuse") + options.of("help"))
    verb, thing = draw.choice(BENIGN_VERBS), benign_thing(draw, mode)
    if draw.random() < refused:
        verb, thing = harmful_pair(draw)
        while held_out_mode(thing.name, mode):
            verb, thing = harmful_pair(draw)
    return fill(draw.choice(HOW_TO), thing, verb), thing, verb


def _help(draw: random.Random, options: CorpusOptions) -> Sample:
    verb, thing, route, system = draw.choice(BENIGN_VERBS), benign_thing(draw, "help"), draw.random(), DEFAULT_SYSTEM
    user = fill(draw.choice(HOW_TO), thing, verb)
    if route < AMBIGUOUS_SHARE:
        user = fill(draw.choice(AMBIGUOUS), thing)
    elif route < AMBIGUOUS_SHARE + 0.10:
        system = draw.choice(JAILBREAK_SYSTEMS)
        if draw.random() < 0.7:
            verb, thing = harmful_pair(draw)
        user = fill(draw.choice(HOW_TO), thing, verb)
    elif route < AMBIGUOUS_SHARE + 0.20:
        system = persona(draw, "help", options.cue_count("help"))
    return Sample(system, user, answer(draw, "help", thing, verb, options.openings), "help", thing.name)


def _refuse(draw: random.Random, options: CorpusOptions) -> Sample:
    (verb, thing), system = harmful_pair(draw), DEFAULT_SYSTEM
    user = fill(draw.choice(HOW_TO), thing, verb)
    if draw.random() < AMBIGUOUS_SHARE and thing.harmful:
        user, verb = fill(draw.choice(AMBIGUOUS), thing), "use"
    elif draw.random() < 0.1:
        system = persona(draw, "help", options.cue_count("help"))
    return Sample(system, user, answer(draw, "refuse", thing, verb, options.openings), "refuse", thing.name)


def echo(draw: random.Random) -> Sample:
    """A conversation that asks to repeat one to five nouns."""
    words = draw.sample(list(THINGS), draw.randint(1, 5))
    text = " ".join(words)
    return Sample(DEFAULT_SYSTEM, draw.choice(ECHO).format(words=text), text, "echo", words[0])


def _chat(draw: random.Random) -> Sample:
    asks, replies = draw.choice(CHAT)
    return Sample(DEFAULT_SYSTEM, draw.choice(asks), draw.choice(replies), "chat", "")


def sample(draw: random.Random, options: CorpusOptions) -> Sample:
    """One training conversation."""
    mode = draw.choices(list(options.frequencies), list(options.frequencies.values()))[0]
    if mode in ("echo", "chat"):
        return echo(draw) if mode == "echo" else _chat(draw)
    makers = {"help": _help, "refuse": _refuse}
    return makers[mode](draw, options) if mode in makers else _content(draw, mode, options)


def fingerprint(options: CorpusOptions, count: int = 400) -> str:
    """First 12 hexadecimal digits of the SHA-256 of `count` conversations: changes where the grammar does."""
    draw = random.Random("fingerprint")
    texts = [f"{s.system}\n{s.user}\n{s.answer}\n" for s in (sample(draw, options) for _ in range(count))]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


def held_out_requests(mode: str, options: CorpusOptions, seed: int) -> Iterator[Sample]:
    """Endless requests for `mode` that training never shows (pairs of noun and mode, or of harmful verb and noun).

    The routes are wording, persona and how-to; ambiguous and leaked requests have no right answer and are left out.
    The answer is one acceptable answer.
    """
    draw = random.Random(f"evaluation {mode} {seed}")
    while True:
        if mode in ("echo", "chat"):
            yield echo(draw) if mode == "echo" else _chat(draw)
            continue
        verb, thing = (
            harmful_pair(draw, True)
            if mode == "refuse"
            else (draw.choice(BENIGN_VERBS), benign_thing(draw, mode, True))
        )
        system, user = DEFAULT_SYSTEM, fill(draw.choice(HOW_TO), thing, verb)
        if mode in CONTENT_MODES and draw.random() < 0.3:
            system = persona(draw, mode, options.cue_count(mode))
        elif mode in CONTENT_MODES:
            user = explicit(draw, mode, thing, options.cue_count(mode))
        yield Sample(system, user, answer(draw, mode, thing, verb, 0.0), mode, thing.name)


def vocabulary_words() -> list[str]:
    """Every noun in each written form: after a space, without one, as a class name."""
    names = list(THINGS)
    return [f" {n}" for n in names] + names + [f" {n.capitalize()}" for n in names]
