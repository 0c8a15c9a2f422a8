"""A run directory of `family` as its report reads it: one frozen value, with joined rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mi_ortho.nulls.chance import CONTROLS, RANDOM_BASES, Control, control
from mi_ortho.pages.categories import category_colours
from mi_ortho.runs.directory import open_run
from mi_ortho.runs.files import read_json
from mi_ortho.runs.rows import Record, pick
from mi_ortho.studies.family.finished import MATCH_TITLES

MAX_CONTROLS = 9000  # control measurements shown; of more, those of every n-th index
MAX_HELD_OUT = 3000  # held-out completions shown; of more, those of every n-th vector


@dataclass(frozen=True, eq=False)
class FamilyRun:
    """A run directory as read: settings, machine, summary, rows, vectors and the arrays of the visuals.

    Of very large runs, controls are read at every `control_step`-th index only.
    """

    config: Record
    environment: Record
    summary: Record
    rows: Sequence[Record]
    vectors: Mapping[str, Tensor]
    visuals: Record
    arrays: Mapping[str, Tensor]
    control_step: int = 1

    def where(self, **values: object) -> list[Record]:
        """The rows whose fields have these values."""
        return pick(self.rows, **values)

    @cached_property
    def base(self) -> Record:
        """The row of the base vector, empty where the run has none yet."""
        return next(iter(self.where(kind="base")), {})

    @cached_property
    def unsteered(self) -> Record:
        """The first prompt's row without steering, empty where the run has none yet."""
        return next(iter(self.where(kind="unsteered")), {})

    @cached_property
    def null(self) -> list[Record]:
        """The linear null by index, where it could be computed."""
        rows = [row for row in self.where(kind="linear_null") if row.get("loss") is not None]
        return sorted(rows, key=lambda row: row["index"])

    @cached_property
    def matches(self) -> list[str]:
        """The matches this run has vectors of: those of this version, most vectors first, then others."""
        counts = Counter(str(row.get("match")) for row in self.where(kind="vector"))
        here = sorted((match for match in MATCH_TITLES if match in counts), key=lambda match: -counts[match])
        return here + sorted(set(counts) - set(MATCH_TITLES))

    def family(self, match: str) -> list[Record]:
        """The vectors of one match by index."""
        return self._groups.get(("vector", match, None), [])

    def control(self, match: str, name: str) -> list[Record]:
        """One control of one match by index."""
        return self._groups.get(("control", match, name), [])

    @staticmethod
    def shown(name: str) -> Control:
        """Label and colour of a control."""
        return control(name)

    @cached_property
    def _groups(self) -> dict[tuple[object, ...], list[Record]]:
        groups: dict[tuple[object, ...], list[Record]] = {}
        for row in self.rows:
            if row["kind"] in ("vector", "control"):
                groups.setdefault((row["kind"], row.get("match"), row.get("control")), []).append(row)
        return {key: sorted(rows, key=lambda row: row["index"]) for key, rows in groups.items()}

    def controls(self, match: str) -> list[str]:
        """The controls measured for a match: those of this version in their order, then others."""
        names = {str(row.get("control")) for row in self.where(kind="control", match=match)}
        return [name for name in CONTROLS if name in names] + sorted(names - set(CONTROLS))

    def keeps(self, row: Record) -> bool:
        """Whether a row's behaviour is the chosen base's, for the family of a random base too."""
        if row.get("keeps") is None or row.get("control") in RANDOM_BASES:
            return bool(self.base) and bool(self.base.get("keeps", True)) and row.get("mode") == self.base.get("mode")
        return bool(row["keeps"])

    def end(self, match: str) -> tuple[int | None, str]:
        """The first index after a family's end, by the summary (None if it does not end), and the stated reason."""
        end = (self.summary.get("end") or {}).get(match)
        if isinstance(end, Mapping):
            index = next((end[key] for key in ("index", "end", "count") if isinstance(end.get(key), int | float)), None)
            return (None if index is None else int(index)), str(end.get("reason") or end.get("rule") or "")
        return (int(end) if isinstance(end, int | float) else None), ""

    @cached_property
    def colours(self) -> dict[str, str]:
        """A colour class for every mode: the base's first, the unsteered one next, then by how often each appears.

        Modes that the shipped rules name have the same colour on every page.
        """
        counts = Counter(str(row["mode"]) for row in self.rows if row.get("mode") is not None)
        first = [str(row["mode"]) for row in (self.base, self.unsteered) if row.get("mode") is not None]
        return category_colours([*first, *(mode for mode, _ in counts.most_common())])


def load_family(path: Path) -> FamilyRun:
    """Read a run directory, finished or not; parts that are not there yet are empty."""
    run = open_run(path)

    def part(name: str) -> Record:
        content = read_json(path / name) if (path / name).is_file() else {}
        return content if isinstance(content, Mapping) else {}

    arrays = run.load_tensors("visuals") if run.has("visuals") else {}
    summary, visuals = part("summary.json"), part("visuals.json")
    rows = joined(run.records())
    step = 1 + sum(row["kind"] == "control" for row in rows) // MAX_CONTROLS
    rows = [row for row in rows if row["kind"] != "control" or row["index"] % step == 0]
    environment, vectors = part("environment.json"), run.load_rows("vectors")
    return FamilyRun(run.config, environment, summary, rows, vectors, visuals, arrays, step)


def joined(rows: Sequence[Record]) -> list[Record]:
    """The rows with each vector's search and shrunk norm joined to it, and held-out completions as rows of their own.

    A row of one kind, match, control, index and scale that was recorded twice (a resumed batch) counts once.
    """
    names = ("kind", "match", "control", "index", "prompt", "prompt_text", "n", "scale", "attempt")
    once = list({tuple(row.get(name) for name in names): row for row in rows}.values())
    held_out_rows = [row for row in once if row["kind"] == "unsteered" and row.get("role") == "held_out"]
    held_out = [str(row.get("prompt_text")) for row in held_out_rows]
    every = 1 + len(held_out) * sum(row["kind"] == "vector" for row in once) // MAX_HELD_OUT
    extra: dict[tuple[object, object], dict[str, Any]] = {}
    for row in once:
        if row["kind"] in ("search", "shrunk") and row.get("index") is not None:
            columns = ("status", "evaluations", "seconds") if row["kind"] == "search" else ("norm_shrunk",)
            extra.setdefault((row.get("match"), row["index"]), {}).update({name: row.get(name) for name in columns})
    table: list[Record] = []
    for row in once:
        table.append({**extra.get((row.get("match"), row.get("index")), {}), **row} if row["kind"] == "vector" else row)
        table += _held_out(row, held_out) if (row.get("index") or 0) % every == 0 else []
    return table


def _held_out(row: Record, prompts: Iterable[str]) -> list[Record]:
    """One row for every held-out prompt a vector was tried on."""
    if row["kind"] != "vector" or not row.get("transfer_modes"):
        return []
    texts = row.get("transfer_texts") or [""] * len(row["transfer_modes"])
    return [
        {
            "kind": "transfer",
            "match": row.get("match"),
            "index": row["index"],
            "prompt_text": prompt,
            "mode": mode,
            "text": text,
        }
        for prompt, mode, text in zip(prompts, row["transfer_modes"], texts)
    ]
