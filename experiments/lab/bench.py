"""Where an experiment measures: a run directory, the model under study, and resumption by what is recorded."""

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch

from mi_ortho import Run, Slice, resid_post, slice_model, tokenize
from mi_ortho.model import readout
from mi_ortho.runs import forget, pick
from mi_ortho.studies.shared import Subject

LATER = {"later": True}
Say = Callable[[str], None]
Track = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Bench:
    """What an experiment's `run` is given.

    Attributes:
        run: the run directory.
        subject: the model with its prompts and rules.
        say: prints a line.
        track: shows progress: stage, done, total.
        held: rows of a stage that is not whole yet; None outside stages.
    """

    run: Run
    subject: Subject
    say: Say = print
    track: Track = field(default=lambda stage, done, total: None)
    held: list[dict[str, Any]] | None = None

    def rows(self, **values: object) -> list[dict[str, Any]]:
        """The recorded rows with these values."""
        return pick([*self.run.records(), *(self.held or [])], **values)

    def has(self, **values: object) -> bool:
        """Whether a row with these values is recorded and need not be measured again."""
        return bool(self.rows(**values))

    def record(self, **row: object) -> None:
        """Keep one flat row: on disk when this returns or, inside a stage, when the whole stage ends."""
        if self.held is None:
            self.run.record(row)
        else:
            self.held.append(row)

    def stage(self, ended: Mapping[str, object] | None = None, **key: object) -> Iterator["Bench"]:
        """Rows that count together or not at all: `for part in bench.stage(case=3): ... part.record(case=3, ...)`.

        The loop runs once, and not at all where the stage is whole already. Whatever interrupts it, nothing of it
        is recorded.

        Args:
            ended: values that only the stage's last row has, beside its key.
            key: values that all of its rows have, and no others.
        """
        if self.has(**key, **(ended or {})):
            return
        forget(self.run, lambda row: bool(pick([row], **key)))  # what earlier versions left of an interrupted one
        part = replace(self, held=[])
        yield part
        self.run.record_stage(", ".join(f"{name} {value}" for name, value in key.items()), part.held or [])

    def map(self, texts: tuple[str, ...], source: int, target: int, **options: Any) -> Slice:
        """The activation map of some prompts from block `source` to block `target` of the subject's model."""
        prompts = tokenize(self.subject.model, list(texts))
        return slice_model(self.subject.model, prompts, source=resid_post(source), target=resid_post(target), **options)

    def texts(self, count: int, name: str = "train") -> tuple[str, ...]:
        """The first prompts of one of the model's lists: "train", "held_out", or the name of a behaviour.

        Training prompts are followed by held-out ones where they are too few.

        Raises:
            ValueError: the model brings no such list, or fewer prompts than asked for.
        """
        return listed(self.subject, count, name)

    @property
    def device(self) -> torch.device:
        """Where the model lies, and every vector with it."""
        return self.subject.device

    def generator(self, seed: int) -> torch.Generator:
        """A new random stream from this seed, on that device."""
        return torch.Generator(self.device).manual_seed(seed)

    def unembedding(self) -> torch.Tensor:
        """What a direction of the last residual stream does to the logits, but for the norm's scale: d_model x vocab.

        Raises:
            ValueError: the model's unembedding cannot be read.
        """
        return readout(self.subject.model).matrix()

    @property
    def layers(self) -> int:
        """Blocks of the model."""
        return int(self.subject.model.cfg.n_layers)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.subject.model.cfg.d_model)

    def require_layers(self, *layers: int) -> None:
        """Raise ValueError unless the model has all of these blocks, in ascending order."""
        if list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < self.layers:
            raise ValueError(
                f"got layers {layers} on a model of {self.layers}; expected ascending layers from 0 to "
                f"{self.layers - 1}; choose others with --set"
            )


def random_order(count: int, generator: torch.Generator) -> torch.Tensor:
    """The numbers below `count` in random order, on the generator's device."""
    return torch.randperm(count, generator=generator, device=generator.device)


def listed(subject: Subject, count: int, name: str) -> tuple[str, ...]:
    """The first prompts of one of a model's lists, as in `Bench.texts`."""
    texts = subject.texts
    every = tuple(dict.fromkeys([*texts.train, *texts.held_out]))
    lists = {**texts.natural, "held_out": texts.held_out, "train": every}
    if len(lists.get(name, ())) < count:
        raise ValueError(
            f"got {len(lists.get(name, ()))} prompts {name!r} for {subject.title}; expected {count}; give the "
            "model's folder a prompts.json with that list, or ask for fewer with --set"
        )
    return lists[name][:count]


def identity(config: Any) -> dict[str, Any]:
    """The settings a run or a file is identified by: those that came later only where they are not at their default.

    Such a field carries the metadata LATER, so that what was measured before it existed stays valid.
    """
    unchanged = {
        one.name for one in fields(config) if one.metadata == LATER and getattr(config, one.name) == one.default
    }
    return {key: value for key, value in asdict(config).items() if key not in unchanged}


@dataclass
class Cost:
    """Wall-clock and CPU seconds of this process since the object was made, and its peak memory in MB."""

    started: float = field(default_factory=time.perf_counter)
    worked: float = field(default_factory=time.process_time)

    def row(self) -> dict[str, float]:
        """The cost as a row of the records: a resumed run adds one for each part."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "seconds": time.perf_counter() - self.started,
            "cpu_seconds": time.process_time() - self.worked,
            "megabytes": peak,
        }
