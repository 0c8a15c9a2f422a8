"""What an experiment needs of a model, looked at before anything is measured or written.

A need is a function of configuration and subject that raises a ValueError where the model lacks something.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from experiments.lab.bench import listed
from experiments.lab.coding import asked_for
from experiments.lab.refusing import tokens_of
from mi_ortho.refusal import instruction_suffix
from mi_ortho.studies.refusal import RefusalConfig, Sets, prompt_sets
from mi_ortho.studies.shared import Subject

Need = Callable[[Any, Subject], None]


def check(needs: Iterable[Need], config: Any, subject: Subject) -> None:
    """Raise the ValueError of the first need that the model does not meet."""
    for need in needs:
        need(config, subject)


def blocks(*fields: str, last: bool = False) -> Need:
    """The settings of these names are blocks of the model, in ascending order; with `last`, all before the last one."""

    def need(config: Any, subject: Subject) -> None:
        values = [value for name in fields for value in _many(getattr(config, name))]
        count = int(subject.model.cfg.n_layers)
        numbers = [*values, count - 1] if last else values
        if numbers != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < count:
            raise ValueError(
                f"got {' and '.join(fields)} = {', '.join(map(str, values))} on {subject.title}, which has {count} "
                f"layers; expected ascending layers from 0 to {count - 1 - last}; choose others with --set"
            )

    return need


def layers(least: int) -> Need:
    """That many blocks."""

    def need(config: Any, subject: Subject) -> None:
        count = int(subject.model.cfg.n_layers)
        if count < least:
            raise ValueError(
                f"got {subject.title}, which has {count} layers; expected at least {least}; take a deeper model"
            )

    return need


def prompts(count: Callable[[Any], int], *fields: str) -> Need:
    """So many prompts in the lists that the settings of these names name; without any, to search on."""

    def need(config: Any, subject: Subject) -> None:
        for name in [getattr(config, field) for field in fields] or ["train"]:
            listed(subject, count(config), name)

    return need


def place(config: Any, subject: Subject) -> None:
    """Blocks to steer and to compare at, prompts for every base, and rules that know the behaviours."""
    blocks("source", "target")(config, subject)
    if unknown := [name for name in config.behaviours if name not in subject.modes.behaviours]:
        raise ValueError(
            f"got behaviours {', '.join(unknown)} for {subject.title}; expected some that its rules know: "
            f"{', '.join(subject.modes.behaviours)}; choose with --set behaviours=..., or write rules into modes.json"
        )
    if len({*subject.texts.train, *subject.texts.held_out}) < config.group:
        raise ValueError(f"got too few prompts for {subject.title}; expected {config.group} at least; set group=1")


def harmless(config: Any, subject: Subject) -> None:
    """Harmless prompts among those that the model brings."""
    if not (subject.texts.natural.get("benign") or subject.texts.natural.get("help")):
        raise ValueError(
            f"got {subject.title} without harmless prompts; expected a list benign; give the model's folder a "
            "prompts.json with it"
        )


def more_prompts(config: Any, subject: Subject) -> None:
    """Prompts beside the group that a family is searched on."""
    every = {*subject.texts.train, *subject.texts.held_out, *subject.texts.natural.get("harmful", ())}
    if len(every) <= config.group:
        raise ValueError(
            f"got {len(every)} prompts for {subject.title}; expected more than the {config.group} of a group, to try "
            "vectors on the others; give the model's folder a prompts.json with more"
        )


def writing(config: Any, subject: Subject) -> None:
    """A base that writes code, and prompts that ask for code and for English, so many of each."""
    if "code" not in getattr(config, "behaviours", ("code",)):
        raise ValueError(
            f"got behaviours {', '.join(config.behaviours)} for {subject.title}; expected code among them, whose "
            "vectors are looked for; choose with --set behaviours=code,..."
        )
    asked_for(subject, config.own, config.seed)


def contrast(config: Any, subject: Subject) -> None:
    """Harmful and harmless prompts for every part of a split."""
    _sets(config, subject)


def refusals(config: Any, subject: Subject) -> None:
    """Harmful prompts that the model refuses, with words that harmless ones do not begin with."""
    layers(2)(config, subject)
    sets = _sets(config, subject)
    _tokens(subject, sets.train_harmful[:16], sets.train_harmless[:16])


def template(config: Any, subject: Subject) -> None:
    """A chat template."""
    try:
        instruction_suffix(subject.model)
    except ValueError as error:
        raise ValueError(
            f"got {subject.title}, whose tokenizer has no chat template with tokens after the instruction; expected "
            "one; take a chat model"
        ) from error


def _many(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _sets(config: Any, subject: Subject) -> Sets:
    train = getattr(config, "train", getattr(config, "prompts", 1))
    sizes = (train, getattr(config, "validation", 1), getattr(config, "test", 1))
    return prompt_sets(RefusalConfig(train=sizes[0], validation=sizes[1], test=sizes[2]), subject)


@lru_cache(maxsize=8)
def _tokens(subject: Subject, harmful: tuple[str, ...], harmless: tuple[str, ...]) -> tuple[int, ...]:
    return tokens_of(subject, harmful, harmless)
