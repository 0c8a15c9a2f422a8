"""What all stages of `refusal` share: the run, the subject, the prompts of both classes, the rules of refusal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mi_ortho.behaviours import CHAT_MODES, GENERIC_MODES, classify
from mi_ortho.model import folder_of
from mi_ortho.model.prompt_sets import PromptSet, load_prompts, shipped_prompts
from mi_ortho.refusal.scores import refuses_anywhere, substantial
from mi_ortho.runs.directory import Run
from mi_ortho.runs.files import read_json
from mi_ortho.runs.rows import pick, stage
from mi_ortho.runs.seeds import random_stream
from mi_ortho.studies.refusal.config import RefusalConfig
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
    else from the small sets of this package.

    Raises:
        ValueError: a size is not positive, or a set cannot be read or has fewer than three prompts.
    """
    sizes = (config.train, config.validation, config.test)
    if min(sizes) < 1:
        raise ValueError(f"got {sizes} prompts for training, validation and test; expected at least 1 each; raise them")
    parts = {}
    for kind, named in (("harmful", config.harmful), ("harmless", config.harmless)):
        column = getattr(config, f"{kind}_column") or config.column
        prompts = load_prompts(named, split=config.split, column=column) if named else _own(kind, subject)
        parts[kind] = [part.instructions for part in prompts.split(*sizes, seed=config.seed)]
    (a, b, c), (d, e, f) = parts["harmful"], parts["harmless"]
    return Sets(a, d, b, e, c, f)


def _own(kind: str, subject: Subject) -> PromptSet:
    folder = folder_of(subject.name)
    if (folder / "contrast.json").is_file():
        content = read_json(folder / "contrast.json")
        if isinstance(content, dict) and isinstance(content.get(kind), list):
            return PromptSet(f"{subject.title}: {kind}", tuple(map(str, content[kind])))
    natural = subject.texts.natural
    lists = ("harmful", "train") if kind == "harmful" else ("benign",)
    texts = tuple(text for name in lists for text in natural.get(name, ()))
    return PromptSet(f"{subject.title}: {kind}", texts) if natural and texts else shipped_prompts(kind)
