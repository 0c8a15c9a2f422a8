"""Layers of a network and of its controls, measured stage by stage into the rows of a bench."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.lab.bench import Bench
from mi_ortho import Verdict
from mi_ortho.model import Model, load_shuffled, load_untrained
from mi_ortho.runs import stage
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


def verdicts_of(rows: Sequence[Row], claims: Sequence[Callable[[Sequence[Row]], Verdict | None]]) -> list[Verdict]:
    """One verdict for each claim, undecided where the rows do not allow one; rows recorded twice count once."""
    once = list({json.dumps(row, sort_keys=True): row for row in rows}.values())
    return [
        claim(once) or Verdict(_claim_text(claim), "not measured", "", None, None, None, None, None) for claim in claims
    ]


def _claim_text(claim: Callable[..., object]) -> str:
    return (claim.__doc__ or claim.__name__).strip().splitlines()[0]


def _network(bench: Bench, name: str, seed: int) -> Model:
    subject = bench.subject
    if name == "model":
        return subject.model
    make = {"untrained": load_untrained, "shuffled": load_shuffled}[name]
    return make(subject.name, seed=seed, device=subject.device, dtype=DTYPES[subject.dtype])
