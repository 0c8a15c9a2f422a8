"""The cross-layer ablation matrix: a direction read in one layer, ablated in others only."""

from collections.abc import Mapping, Sequence
from random import Random

from torch import Tensor

from mi_ortho.interventions.sites import Site
from mi_ortho.refusal.extraction import Extraction
from mi_ortho.refusal.places import ablate_everywhere
from mi_ortho.refusal.scores import refusal_scores
from mi_ortho.refusal.selection import Candidate
from mi_ortho.studies.refusal.bench import Study
from mi_ortho.studies.refusal.directions import random_directions, validation_prompts


def ablation_matrix(study: Study, extraction: Extraction, best: Candidate) -> None:
    """Refusal score of harmful validation prompts by the layer a direction was read in and those it is ablated in.

    Rows: layers spread evenly, at the stream and position of the selected direction, and the random controls. Columns:
    each of these layers alone, the strided and random subsets of `subsets`, and all layers. Rows already recorded are
    skipped.
    """
    if not study.config.matrix:
        return
    layers = int(study.subject.model.cfg.n_layers)
    shown = spread(layers, study.config.matrix)
    columns = {f"only {layer}": [layer] for layer in shown} | subsets(layers, study.config.seed)
    sources = _sources(extraction, best, shown)
    drawn = random_directions(study, extraction.direction(best.site, best.position))
    sources |= {f"random {number}": row for number, row in enumerate(drawn)}
    for number, (name, direction) in enumerate(sources.items()):

        def compute(name: str = name, direction: Tensor = direction) -> list[dict[str, object]]:
            return [_row(study, name, direction, columns)]

        study.stage(f"ablation matrix, {name}", compute, kind="matrix", source=name)
        study.track("ablation matrix", number + 1, len(sources))


def _sources(extraction: Extraction, best: Candidate, shown: Sequence[int]) -> dict[str, Tensor]:
    """Directions at the selected stream and position in the layers shown; a layer where the classes agree has none."""
    sites = [Site(layer, best.site.kind) for layer in shown]
    found = {str(site): extraction.direction(site, best.position) for site in sites}
    return {name: r for name, r in found.items() if bool(r.isfinite().all()) and float(r.norm()) > 0}


def _row(study: Study, name: str, direction: Tensor, columns: Mapping[str, Sequence[int]]) -> dict[str, object]:
    model, texts = study.subject.model, validation_prompts(study)[0]
    tokens = tuple(study.rows(kind="refusal_tokens")[-1]["ids"])
    changes = [{}, *(ablate_everywhere(model, direction, layers=own) for own in columns.values())]
    before, *scores = [float(refusal_scores(model, texts, tokens, changed).mean()) for changed in changes]
    return {
        "kind": "matrix",
        "source": name,
        "control": name.startswith("random"),
        "before": before,
        "columns": list(columns),
        "layers": [list(own) for own in columns.values()],
        "scores": scores,
    }


def spread(layers: int, count: int) -> list[int]:
    """At most `count` layers, the first and the last among them, evenly spread.

    >>> spread(8, 8), spread(9, 3), spread(4, 1)
    ([0, 1, 2, 3, 4, 5, 6, 7], [0, 4, 8], [3])
    """
    if count >= layers:
        return list(range(layers))
    return [layers - 1] if count == 1 else sorted({round(k * (layers - 1) / (count - 1)) for k in range(count)})


def subsets(layers: int, seed: int) -> dict[str, list[int]]:
    """Sets of layers by name, all of them not empty: strides from the first third on, halves, a random half, all.

    >>> subsets(8, 0)["every 2nd"], subsets(8, 0)["second half"]
    ([2, 4, 6], [4, 5, 6, 7])
    """
    every, third, half = list(range(layers)), layers // 3, (layers + 1) // 2
    return {
        "every 2nd": every[third::2],
        "every 3rd": every[third::3],
        "first half": every[:half],
        "second half": every[layers - half :],
        "random half": sorted(Random(seed).sample(every, half)),
        "all": every,
    }
