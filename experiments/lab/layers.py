"""Layers of a network and of its controls, measured stage by stage into the rows of a bench."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab.bench import Bench
from mi_ortho.model import Model, load_shuffled, load_untrained
from mi_ortho.pages import Series
from mi_ortho.runs import pick, stage
from mi_ortho.stats import Measured
from mi_ortho.studies.geometry import Effort, read_network, stages
from mi_ortho.studies.refusal import RefusalConfig, prompt_sets
from mi_ortho.studies.shared import DTYPES

Row = Mapping[str, Any]


def record_layers(bench: Bench, stages_of: Mapping[str, Sequence[str]], effort: Effort, prompts: int) -> None:
    """Record the stages of each network: "model", "untrained" (random initial weights), "shuffled" (permuted weights).

    Args:
        bench: where the rows go; stages that are there already are left out.
        stages_of: names of stages by network.
        effort: how much is drawn.
        prompts: of each class, harmful and harmless.
    """
    config = RefusalConfig(train=prompts, validation=1, test=1, seed=effort.seed)
    splits = prompt_sets(config, bench.subject)
    sets = {"harmful": splits.train_harmful, "harmless": splits.train_harmless}
    for network, names in stages_of.items():
        old = bench.rows(kind="stage", network=network)  # of earlier versions
        recorded = {*bench.run.ended, *(f"{network} {row['stage']}" for row in old)}
        todo = [name for name in names if f"{network} {name}" not in recorded]
        if not todo:
            continue
        measured = stages(read_network(_network(bench, network, effort.seed), sets), effort)
        for name in todo:
            stage(
                bench.run,
                f"{network} {name}",
                lambda network=network, rows=measured[name]: [{**row, "network": network} for row in rows()],
            )
            bench.track(f"stages of {network}", todo.index(name) + 1, len(todo))


def once(rows: Sequence[Row]) -> list[Row]:
    """Rows of layers; those that were recorded twice count once."""
    return list({json.dumps(row, sort_keys=True): row for row in rows if row.get("kind") != "stage"}.values())


def resampled(row: Row, name: str = "value") -> Measured:
    """A number of a row with its interval over resamplings of the prompts."""
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    return Measured(row[name], (row[low], row[high]), "bootstrap over prompts", row.get("samples"), "prompt")


def beside(
    rows: Sequence[Row], network: str, name: str = "value", **values: object
) -> tuple[Measured, Measured] | None:
    """That number of the model and of a control network; None where either is missing. Of several rows it is the first.

    Args:
        rows: of all networks.
        network: the control.
        name: of the number.
        values: that the row has in both.
    """
    model, control = (pick(rows, network=which, **values) for which in ("model", network))
    return (resampled(model[0], name), resampled(control[0], name)) if model and control else None


def curves_of(rows: Sequence[Row], networks: Mapping[str, str], column: str, **values: object) -> tuple[Series, ...]:
    """A column of the rows with these values by depth, a curve for each network in its style."""
    parts = {name: pick(rows, network=name, **values) for name in networks}
    return tuple(
        Series(name, [row["depth"] for row in part], [row[column] for row in part], networks[name], name)
        for name, part in parts.items()
        if part
    )


def _network(bench: Bench, name: str, seed: int) -> Model:
    subject = bench.subject
    if name == "model":
        return subject.model
    make = {"untrained": load_untrained, "shuffled": load_shuffled}[name]
    return make(subject.name, seed=seed, device=subject.device, dtype=DTYPES[subject.dtype])
