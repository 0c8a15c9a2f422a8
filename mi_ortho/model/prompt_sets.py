"""Sets of instructions: our own small ones, local files, and data sets by name."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mi_ortho.model.prompt_files import SUFFIXES, prompt_of, read_prompts

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class PromptSet:
    """Instructions of one kind, without repetitions, and the name they are recorded under.

    >>> training, test = PromptSet("six", tuple("abcdef")).split(4, 2, seed=0)
    >>> len(training), len(test), set(training.instructions) & set(test.instructions)
    (4, 2, set())
    """

    name: str
    instructions: tuple[str, ...]

    def __post_init__(self) -> None:
        distinct = tuple(dict.fromkeys(text for text in self.instructions if text.strip()))
        if not distinct:
            raise ValueError(f"got an empty prompt set {self.name}; expected at least one instruction; fill it")
        object.__setattr__(self, "instructions", distinct)

    def __len__(self) -> int:
        return len(self.instructions)

    def split(self, *sizes: int, seed: int) -> tuple["PromptSet", ...]:
        """Disjoint parts of these sizes, drawn at random; with too few instructions the sizes shrink in proportion.

        Raises:
            ValueError: there are fewer instructions than parts, or a size below 1.
        """
        if min(sizes, default=0) < 1:
            raise ValueError(f"got parts of sizes {sizes}; expected at least 1 each; raise them")
        if len(self) < len(sizes):
            raise ValueError(
                f"got {len(self)} instructions in {self.name} for {len(sizes)} parts; expected at least "
                "one each; take a larger set"
            )
        mixed = list(self.instructions)
        Random(seed).shuffle(mixed)
        share = min(1.0, len(self) / sum(sizes))
        ends = []
        for k in range(len(sizes)):  # every part keeps at least one instruction, and leaves one for each part after it
            first, last = (ends[-1] if ends else 0) + 1, len(self) - (len(sizes) - 1 - k)
            ends.append(min(max(first, round(share * sum(sizes[: k + 1]))), last))
        starts = [0, *ends[:-1]]
        return tuple(PromptSet(self.name, tuple(mixed[a:b])) for a, b in zip(starts, ends))


def shipped_prompts(kind: str) -> PromptSet:
    """The shipped set "harmful" or "harmless": short requests of the same forms, without any harmful content."""
    if kind not in ("harmful", "harmless"):
        raise ValueError(f"got kind {kind!r}; expected harmful or harmless; correct it")
    return load_prompts(str(DATA / f"{kind}.json"))


def load_prompts(source: str, *, split: str = "train", column: str | None = None) -> PromptSet:
    """Instructions from a local file or, by name, from a data set of the optional package `datasets`.

    Args:
        source: a file that `read_prompts` reads (JSON, JSON lines, CSV, TSV, text); otherwise a data set's name.
        split: which split of a data set.
        column: the key or column with the instructions; None tries the usual ones (instruction, prompt, goal, ...).

    Raises:
        ValueError: the file is missing or has another form, the package is not installed, or nothing was found.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() in SUFFIXES or path.exists():
        return PromptSet(path.stem, read_prompts(path, column=column))
    rows = _dataset(source, split)
    return PromptSet(source, tuple(prompt_of(source, number, row, column) for number, row in enumerate(rows, start=1)))


def _dataset(name: str, split: str) -> Sequence[Any]:
    if importlib.util.find_spec("datasets") is None:
        raise ValueError(
            f"got {name!r}, which is no file here, and the package datasets is not installed; expected a "
            "file or that package; check the path, or pip install datasets"
        )
    package = importlib.import_module("datasets")
    try:
        return package.load_dataset(name, split=split)
    except Exception as error:  # of a dozen kinds, from the hub, the network and the reader of the data
        raise ValueError(
            f"got data set {name!r}, split {split!r}, which cannot be loaded "
            f"({' '.join(str(error).split())[:160]}); expected a file or a data set's name; check "
            "the spelling and the network"
        ) from error
