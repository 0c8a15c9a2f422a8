"""What all stages of `refusal` share: the run, the subject, the prompts of both classes, the rules of refusal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mi_ortho.behaviours import CHAT_MODES, GENERIC_MODES, classify
from mi_ortho.model import companions
from mi_ortho.model.prompt_sets import PromptSet, load_prompts, shipped_prompts
from mi_ortho.refusal.scores import refuses_anywhere, stage_of, substantial
from mi_ortho.runs.directory import Run
from mi_ortho.runs.files import read_json
from mi_ortho.runs.rows import pick, stage
from mi_ortho.runs.seeds import random_stream
from mi_ortho.studies.refusal.config import RefusalConfig
from mi_ortho.studies.refusal.words import REFUSE, Words, words_of
from mi_ortho.studies.shared.subject import Subject

Track = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sets:
    """Disjoint parts of the two classes of prompts."""

    train_harmful: tuple[str, ...]
    train_harmless: tuple[str, ...]
    validation_harmful: tuple[str, ...]
    validation_harmless: tuple[str, ...]
    test_harmful: tuple[str, ...]
    test_harmless: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Study:
    """One run of the command and what is fixed before any work."""

    run: Run
    config: RefusalConfig
    subject: Subject
    sets: Sets
    say: Callable[[str], None] = print
    track: Track = field(default=lambda stage, done, total: None)

    def rows(self, **values: object) -> list[dict[str, Any]]:
        """Recorded rows with these values."""
        return pick(self.run.records(), **values)

    def stage(self, name: str, compute: Callable[[], Sequence[Mapping[str, object]]], **rows: object) -> None:
        """Record the rows of a stage unless the run has them.

        Runs of earlier versions did not mark stages; there its rows are those with the values `rows`.
        """
        stage(self.run, name, compute, old=lambda row: bool(pick([row], **rows)))

    def leave_out(self, what: str, reason: object) -> None:
        """Record once that a part is left out, and why."""
        if not self.rows(kind="left_out", what=what):
            self.run.record({"kind": "left_out", "what": what, "reason": str(reason)})

    def generator(self, stage: int) -> torch.Generator:
        """A separate random stream for each use."""
        return random_stream(self.config.seed, stage, times=1009)

    @property
    def about_refusal(self) -> bool:
        """Whether the behaviour is refusal, as published."""
        return self.config.behaviour == REFUSE

    @property
    def words(self) -> Words:
        """What the behaviour and the classes are called."""
        return words_of([] if self.about_refusal else [self.classes_row()])

    def classes_row(self) -> dict[str, object]:
        """The row that names the behaviour and the classes of a study that is not about refusal."""
        return {"kind": "classes", "behaviour": self.config.behaviour, "against": self.config.against}

    def shows(self, text: str) -> bool:
        """Whether a completion shows the behaviour of the study."""
        return self.refuses(text) if self.about_refusal else classify(text, self.subject.modes) == self.config.behaviour

    def stage_of(self, text: str) -> str:
        """How a completion answers, see `mi_ortho.refusal.scores.stage_of`; another behaviour is its own stage."""
        if self.about_refusal:
            return stage_of(text, self.complies, self.refuses)
        return self.config.behaviour if self.shows(text) else "answers" if substantial(text) else "neither"

    def refuses(self, text: str) -> bool:
        """Whether a completion is a refusal by the model's own rule, or by refusal phrases if it has no such rule."""
        modes = self.subject.modes
        shared = modes is GENERIC_MODES or modes is CHAT_MODES  # not read from the model's modes.json
        has_rule = not shared and "refuse" in modes.behaviours
        return classify(text, modes) == "refuse" if has_rule else refuses_anywhere(text)

    def complies(self, text: str) -> bool:
        """Whether a text without its refusing sentences is an answer: by the model's rule for help, else by length."""
        return classify(text, self.subject.modes) == "help" if "help" in self.subject.modes.names else substantial(text)


def prompt_sets(config: RefusalConfig, subject: Subject) -> Sets:
    """Training, validation and test prompts of both classes.

    They come from the files or data sets of the settings, else from the model folder (contrast.json or prompts.json),
    else, for refusal, from the small sets of this package.

    Raises:
        ValueError: a size is not positive, no rule names the behaviour, or a set is missing, cannot be read or has
            fewer than three prompts.
    """
    sizes = (config.train, config.validation, config.test)
    if min(sizes) < 1:
        raise ValueError(f"got {sizes} prompts for training, validation and test; expected at least 1 each; raise them")
    names = subject.modes.behaviours
    if config.behaviour not in (REFUSE, *names):
        raise ValueError(
            f"got behaviour {config.behaviour!r}, which no rule of the model names; expected refuse or one of "
            f"{', '.join(names)}; correct --behaviour"
        )
    parts = {}
    for kind, named in (("harmful", config.harmful), ("harmless", config.harmless)):
        column = getattr(config, f"{kind}_column") or config.column
        prompts = load_prompts(named, split=config.split, column=column) if named else _own(kind, config, subject)
        parts[kind] = [part.instructions for part in prompts.split(*sizes, seed=config.seed)]
    (a, b, c), (d, e, f) = parts["harmful"], parts["harmless"]
    return Sets(a, d, b, e, c, f)


def _own(kind: str, config: RefusalConfig, subject: Subject) -> PromptSet:
    """The prompts of one class that go with the model."""
    if config.behaviour == REFUSE:
        return refusal_prompts(kind, subject)
    name = config.behaviour if kind == "harmful" else config.against
    texts = _in_contrast_file(name, subject) or subject.texts.natural.get(name, ())
    if not texts:
        raise ValueError(
            f"got no prompts {name!r} with {subject.title}; expected some that ask for {config.behaviour} and some "
            "that do not; give two files by --harmful and --harmless"
        )
    return PromptSet(f"{subject.title}: {name}", tuple(texts))


def refusal_prompts(kind: str, subject: Subject) -> PromptSet:
    """The model's own harmful or harmless prompts, else the small sets of this package."""
    natural = subject.texts.natural
    lists = ("harmful", "train") if kind == "harmful" else ("benign",)
    texts = tuple(text for name in lists for text in natural.get(name, ()))
    here = _in_contrast_file(kind, subject) or (texts if natural.get(lists[0]) else ())
    return PromptSet(f"{subject.title}: {kind}", tuple(here)) if here else shipped_prompts(kind)


def _in_contrast_file(name: str, subject: Subject) -> tuple[str, ...]:
    path = companions(subject.name) / "contrast.json"
    content = read_json(path) if path.is_file() else {}
    texts = content.get(name) if isinstance(content, dict) else None
    return tuple(map(str, texts)) if isinstance(texts, list) else ()
