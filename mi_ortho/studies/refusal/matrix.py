"""The cross-layer ablation matrix: a direction read in one layer, ablated in others."""

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
    """Refusal score of harmful validation prompts, by the layer a direction is read in and those it is ablated in.

    Rows: evenly spread layers, at the stream and position of the selected direction, and the random controls. Columns:
    each of these layers alone, then the `subsets`. Rows already recorded are skipped.
    """
    if not study.config.matrix:
        return
    layers = int(study.subject.model.cfg.n_layers)
    origins = spread(layers, study.config.matrix)
    columns = {f"only {layer}": [layer] for layer in origins} | subsets(layers, study.config.seed)
    sources = _sources(extraction, best, origins)
    random = random_directions(study, extraction.direction(best.site, best.position))
    sources |= {f"random {number}": row for number, row in enumerate(random)}
    for number, (name, direction) in enumerate(sources.items()):

        def compute(name: str = name, direction: Tensor = direction) -> list[dict[str, object]]:
            return [_row(study, name, direction, columns)]

        study.stage(f"ablation matrix, {name}", compute, kind="matrix", source=name)
        study.track("ablation matrix", number + 1, len(sources))


def _sources(extraction: Extraction, best: Candidate, layers: Sequence[int]) -> dict[str, Tensor]:
    """The directions at the selected stream and position in these layers; none where the class means are equal."""
    sites = [Site(layer, best.site.kind) for layer in layers]
    directions = {str(site): extraction.direction(site, best.position) for site in sites}
    return {name: r for name, r in directions.items() if bool(r.isfinite().all()) and float(r.norm()) > 0}


def _row(study: Study, name: str, direction: Tensor, columns: Mapping[str, Sequence[int]]) -> dict[str, object]:
    model, texts = study.subject.model, validation_prompts(study)[0]
    tokens = tuple(study.rows(kind="refusal_tokens")[-1]["ids"])
    changes = [{}, *(ablate_everywhere(model, direction, layers=subset) for subset in columns.values())]
    before, *scores = [float(refusal_scores(model, texts, tokens, changed).mean()) for changed in changes]
    return {
        "kind": "matrix",
        "source": name,
        "control": name.startswith("random"),
        "before": before,
        "columns": list(columns),
        "layers": [list(subset) for subset in columns.values()],
        "scores": scores,
    }


def spread(layers: int, count: int) -> list[int]:
    """At most `count` evenly spread layers; from two on the first and the last are among them.

    >>> spread(8, 8), spread(9, 3), spread(4, 1)
    ([0, 1, 2, 3, 4, 5, 6, 7], [0, 4, 8], [3])
    """
    if count >= layers:
        return list(range(layers))
    return [layers - 1] if count == 1 else sorted({round(k * (layers - 1) / (count - 1)) for k in range(count)})


def subsets(layers: int, seed: int) -> dict[str, list[int]]:
    """Non-empty sets of layers by name: strides from the first third on, halves, a random half, all.

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
