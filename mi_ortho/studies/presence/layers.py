"""What is recorded of one layer: every vector, the family beside its null sets, label shuffles, nullspace probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.interventions.subspace import span, subspace_overlap
from mi_ortho.nulls.linear import rank_p_value
from mi_ortho.probes import (
    bootstrapped_auc,
    cosines_with,
    discriminant_probe,
    false_discoveries,
    logistic_probe,
    mean_shares,
    nullspace_probes,
    permuted_auc,
    shuffled_labels,
    token_presence,
    upper_p_values,
)
from mi_ortho.runs.rows import Row
from mi_ortho.runs.seeds import random_stream
from mi_ortho.studies.presence.contrasts import (
    CONTRASTS,
    NULLS,
    PRIMARY,
    STATISTICS,
    Contrast,
    SetResult,
    contrast,
    measured_nulls,
    measured_set,
    streamed_auc,
)
from mi_ortho.studies.presence.streams import Stream

GRID = 101  # quantiles kept of a null's AUCs
PROBES = {"discriminant": discriminant_probe, "logistic": logistic_probe}


@dataclass(frozen=True)
class Effort:
    """How much is drawn: null sets, label shuffles, bootstraps, tokens of each group for nulls, and the seed."""

    sets: int
    shuffles: int
    tokens: int
    seed: int

    def generator(self, *stage: int) -> torch.Generator:
        """A random stream of its own for every part, so that leaving one out changes nothing else."""
        return random_stream(self.seed, *stage, times=1009, plus=1)


def layer_rows(
    streams: Mapping[tuple[int, str], Stream],
    layer: int,
    vectors: Float[Tensor, "n d_model"],
    what: Sequence[str],
    topics: Mapping[int, int],
    effort: Effort,
) -> list[Row]:
    """All records of one layer. `what` says of each vector whether it is "kept" (the family), "lost" or "base".

    `topics` gives the topic of each passage.
    """
    rows: list[Row] = []
    studied = torch.tensor([word == "kept" for word in what])
    per_vector: list[Row] = [
        {"kind": "presence", "layer": layer, "index": k, "what": word} for k, word in enumerate(what)
    ]
    _add(per_vector, _shares(streams, layer, vectors))
    for stage, name in enumerate(CONTRASTS):
        found = contrast(streams, layer, name, effort.tokens)
        nulls = measured_nulls(found, int(studied.sum()), effort.sets, effort.generator(layer, stage))
        own = measured_set(found, vectors)
        family = measured_set(found, vectors[studied])
        columns, error = _separation(found, own, nulls, name)
        labels, fresh = _label_test(found, vectors, studied, topics, name, effort, layer * 8 + stage)
        _add(per_vector, columns | fresh)
        rows += [_set_row(layer, name, "family", [family])]
        rows += [_set_row(layer, name, null, drawn) for null, drawn in nulls.items()]
        rows.append(
            {
                "kind": "contrast",
                "layer": layer,
                "contrast": name,
                "binning_error": error,
                "tokens": [found.positive.moments.count, found.negative.moments.count],
                **labels,
                **_against(family, nulls),
            }
        )
    return per_vector + rows


def probe_rows(
    streams: Mapping[tuple[int, str], Stream],
    layer: int,
    family: Float[Tensor, "n d_model"],
    seeds: int,
    tokens: int,
    effort: Effort,
) -> list[Row]:
    """Nullspace probes of the primary contrast with true and with shuffled labels, for several splits of the text."""
    found, rows, inside = contrast(streams, layer, PRIMARY, tokens), [], span(family.double())
    for fit in PROBES:
        for seed in range(seeds if fit == "discriminant" else 1):
            for shuffled in (False, True):
                generator = effort.generator(layer, 900 + seed, shuffled)
                labels = shuffled_labels(found.labels, found.passages, generator) if shuffled else found.labels
                probes = nullspace_probes(found.rows, labels, found.passages, generator, fit=PROBES[fit])
                overlap = subspace_overlap(inside, probes.found) if len(probes.found) else None
                rows.append(
                    {
                        "kind": "probes",
                        "layer": layer,
                        "fit": fit,
                        "seed": seed,
                        "shuffled": shuffled,
                        "count": len(probes.found),
                        "exhausted": probes.exhausted,
                        "aucs": probes.aucs,
                        "p_values": probes.p_values,
                        "overlap": overlap,
                        "overlap_chance": max(len(inside), len(probes.found)) / family.shape[1],
                    }
                )
    return rows


def _add(rows: Sequence[Row], columns: Mapping[str, Float[Tensor, " n"]]) -> None:
    for name, values in columns.items():
        for row, value in zip(rows, values.tolist(), strict=True):
            row[name] = value


def _shares(
    streams: Mapping[tuple[int, str], Stream], layer: int, vectors: Float[Tensor, "n d_model"]
) -> dict[str, Float[Tensor, " n"]]:
    """Mean and largest share of |h|^2 along each vector, for every group of text."""
    columns = {}
    for (at, group), stream in streams.items():
        if at == layer:
            columns[f"share_{group}"] = mean_shares(stream.moments, vectors)
            columns[f"largest_share_{group}"] = stream.strongest.largest_share
    return columns


def _separation(
    found: Contrast, own: SetResult, nulls: Mapping[str, Sequence[SetResult]], name: str
) -> tuple[dict[str, Float[Tensor, " n"]], float]:
    """AUC over all tokens and on the sample; for each null the p-value of AUC among the null's vectors."""
    values, error = streamed_auc(found)
    columns = {f"auc_{name}": values, f"sampled_auc_{name}": own.aucs}
    for null, drawn in nulls.items():
        columns[f"p_{null}_{name}"] = upper_p_values(own.aucs, torch.cat([one.aucs for one in drawn]))
    return columns, error


def _label_test(
    found: Contrast,
    vectors: Float[Tensor, "n d_model"],
    studied: Bool[Tensor, " n"],
    topics: Mapping[int, int],
    name: str,
    effort: Effort,
    stage: int,
) -> tuple[Row, dict[str, Float[Tensor, " n"]]]:
    """Is anything there at all? |AUC - 1/2| against shuffled labels of whole passages; an interval for the mean AUC."""
    scores = token_presence(found.rows, vectors.to(found.rows))
    strata = torch.tensor([topics[int(k)] for k in found.passages.tolist()]) if "matched" in name else None
    draws = permuted_auc(scores, found.labels, found.passages, strata, effort.shuffles, effort.generator(stage, 700))
    sampled = measured_set(found, vectors).aucs
    apart, null = (sampled - 0.5).abs(), (draws - 0.5).abs()
    p_values = ((null >= apart).sum(0) + 1) / (1 + len(null))
    boot = bootstrapped_auc(
        scores[:, studied], found.labels, found.passages, effort.shuffles, effort.generator(stage, 800)
    ).mean(1)
    edges = torch.quantile(boot, torch.tensor([0.025, 0.975]).double())
    numbers = {
        "p_labels": rank_p_value(float(apart[studied].mean()), null[:, studied].mean(1).tolist()),
        "interval": edges.tolist(),
        "label_null": float(null[:, studied].mean()),
        "cosine_mean": float(cosines_with(vectors[studied], found.difference).mean()),
    }
    difference = cosines_with(vectors, found.difference)
    return numbers, {f"p_labels_{name}": p_values.double(), f"cosine_{name}": difference}


def _set_row(layer: int, name: str, kind: str, drawn: Sequence[SetResult]) -> Row:
    """One kind of set: every statistic of every draw, and the quantiles of all AUCs."""
    grid = torch.linspace(0, 1, GRID, dtype=torch.float64)
    quantiles = torch.quantile(torch.cat([one.aucs for one in drawn]), grid).tolist()
    return {
        "kind": "sets",
        "layer": layer,
        "contrast": name,
        "null": kind,
        "auc_quantiles": quantiles,
        **{key: [one.numbers[key] for one in drawn] for key in STATISTICS},
    }


def _against(family: SetResult, nulls: Mapping[str, Sequence[SetResult]]) -> Row:
    """For every statistic and null the chance that a set of that kind reaches the family's value."""
    return {
        f"p_{key}_{null}": rank_p_value(family.numbers[key], [one.numbers[key] for one in nulls[null]])
        for key in STATISTICS
        for null in NULLS
    }


def discoveries(rows: Sequence[Mapping[str, Any]], column: str, level: float) -> list[bool]:
    """Which p-values of a column stand after Benjamini and Hochberg over all these rows together."""
    if not rows:
        return []
    adjusted = false_discoveries(torch.tensor([float(row[column]) for row in rows], dtype=torch.float64))
    return (adjusted <= level).tolist()
