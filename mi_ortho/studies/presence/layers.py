"""The records of one layer: every vector, the family beside its null sets, label shuffles, nullspace probes."""

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
    """Sizes of random parts (null sets of each kind, label shuffles, tokens of each group for nulls); their seed."""

    sets: int
    shuffles: int
    tokens: int
    seed: int

    def generator(self, *stage: int) -> torch.Generator:
        """A separate random stream for each part, so that leaving one out changes no other."""
        return random_stream(self.seed, *stage, times=1009, plus=1)


def layer_rows(
    streams: Mapping[tuple[int, str], Stream],
    layer: int,
    vectors: Float[Tensor, "n d_model"],
    what: Sequence[str],
    topics: Mapping[int, int],
    effort: Effort,
) -> list[Row]:
    """All records of one layer but those of the probes.

    Args:
        streams: statistics by layer and group of text.
        layer: its number.
        vectors: all vectors of the run, and the base.
        what: of each vector "kept" (it is of the family), "lost" or "base".
        topics: the topic of each passage.
        effort: sizes of the random parts.
    """
    rows: list[Row] = []
    studied = torch.tensor([word == "kept" for word in what])
    per_vector: list[Row] = [
        {"kind": "presence", "layer": layer, "index": k, "what": word} for k, word in enumerate(what)
    ]
    _add(per_vector, _shares(streams, layer, vectors))
    for stage, name in enumerate(CONTRASTS):
        groups = contrast(streams, layer, name, effort.tokens)
        nulls = measured_nulls(groups, int(studied.sum()), effort.sets, effort.generator(layer, stage))
        every = measured_set(groups, vectors)
        family = measured_set(groups, vectors[studied])
        columns, error = _separation(groups, every, nulls, name)
        labels, fresh = _label_test(groups, vectors, studied, topics, name, effort, layer * 8 + stage)
        _add(per_vector, columns | fresh)
        rows += [_set_row(layer, name, "family", [family])]
        rows += [_set_row(layer, name, null, results) for null, results in nulls.items()]
        rows.append(
            {
                "kind": "contrast",
                "layer": layer,
                "contrast": name,
                "binning_error": error,
                "tokens": [groups.positive.moments.count, groups.negative.moments.count],
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
    groups, rows, inside = contrast(streams, layer, PRIMARY, tokens), [], span(family.double())
    for fit in PROBES:
        for seed in range(seeds if fit == "discriminant" else 1):
            for shuffled in (False, True):
                generator = effort.generator(layer, 900 + seed, shuffled)
                labels = shuffled_labels(groups.labels, groups.passages, generator) if shuffled else groups.labels
                probes = nullspace_probes(groups.rows, labels, groups.passages, generator, fit=PROBES[fit])
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
    groups: Contrast, every: SetResult, nulls: Mapping[str, Sequence[SetResult]], name: str
) -> tuple[dict[str, Float[Tensor, " n"]], float]:
    """AUC of each vector over all tokens and on the sample, p-values against the nulls' vectors; the binning error."""
    values, error = streamed_auc(groups)
    columns = {f"auc_{name}": values, f"sampled_auc_{name}": every.aucs}
    for null, results in nulls.items():
        columns[f"p_{null}_{name}"] = upper_p_values(every.aucs, torch.cat([one.aucs for one in results]))
    return columns, error


def _label_test(
    groups: Contrast,
    vectors: Float[Tensor, "n d_model"],
    studied: Bool[Tensor, " n"],
    topics: Mapping[int, int],
    name: str,
    effort: Effort,
    stage: int,
) -> tuple[Row, dict[str, Float[Tensor, " n"]]]:
    """|AUC - 1/2| against shuffled labels of whole passages, and an interval for the family's mean AUC."""
    scores = token_presence(groups.rows, vectors.to(groups.rows))
    strata = torch.tensor([topics[int(k)] for k in groups.passages.tolist()]) if "matched" in name else None
    draws = permuted_auc(scores, groups.labels, groups.passages, strata, effort.shuffles, effort.generator(stage, 700))
    sampled = measured_set(groups, vectors).aucs
    apart, null = (sampled - 0.5).abs(), (draws - 0.5).abs()
    p_values = ((null >= apart).sum(0) + 1) / (1 + len(null))
    boot = bootstrapped_auc(
        scores[:, studied], groups.labels, groups.passages, effort.shuffles, effort.generator(stage, 800)
    ).mean(1)
    edges = torch.quantile(boot, torch.tensor([0.025, 0.975]).double())
    numbers = {
        "p_labels": rank_p_value(float(apart[studied].mean()), null[:, studied].mean(1).tolist()),
        "interval": edges.tolist(),
        "label_null": float(null[:, studied].mean()),
        "cosine_mean": float(cosines_with(vectors[studied], groups.difference).mean()),
    }
    difference = cosines_with(vectors, groups.difference)
    return numbers, {f"p_labels_{name}": p_values.double(), f"cosine_{name}": difference}


def _set_row(layer: int, name: str, kind: str, results: Sequence[SetResult]) -> Row:
    """The row of one kind of set: every statistic of every draw, and quantiles of all AUCs."""
    grid = torch.linspace(0, 1, GRID, dtype=torch.float64)
    quantiles = torch.quantile(torch.cat([one.aucs for one in results]), grid).tolist()
    return {
        "kind": "sets",
        "layer": layer,
        "contrast": name,
        "null": kind,
        "auc_quantiles": quantiles,
        **{key: [one.numbers[key] for one in results] for key in STATISTICS},
    }


def _against(family: SetResult, nulls: Mapping[str, Sequence[SetResult]]) -> Row:
    """For every statistic and null, the p-value: the chance that a set of that kind reaches the family's value."""
    return {
        f"p_{key}_{null}": rank_p_value(family.numbers[key], [one.numbers[key] for one in nulls[null]])
        for key in STATISTICS
        for null in NULLS
    }


def discoveries(rows: Sequence[Mapping[str, Any]], column: str, level: float) -> list[bool]:
    """For each row, whether its p-value in `column` is at most `level` after Benjamini and Hochberg over all rows."""
    if not rows:
        return []
    adjusted = false_discoveries(torch.tensor([float(row[column]) for row in rows], dtype=torch.float64))
    return (adjusted <= level).tolist()
