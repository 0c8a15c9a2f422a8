"""Rows about pairs of layers and single layers: shared directions of the weights, likeness, flatness."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_ortho.geometry import (
    bent_copy,
    chance_overlaps,
    explained_share,
    fit_linear,
    fit_rotation,
    fit_scaling,
    flatness,
    gaussian_copy,
    grouped_copy,
    linear_cka,
    mean_of_pairs,
    overlap_matrix,
    procrustes_distance,
    randomly_turned,
    split_half_cka,
    write_space,
)
from mi_ortho.interventions.sites import Site
from mi_ortho.runs.rows import Row
from mi_ortho.runs.seeds import random_stream

PARTS = {"attention": ("attn_out",), "mlp": ("mlp_out",), "both": ("attn_out", "mlp_out")}


def overlaps(matrices: Sequence[tuple[Site, Float[Tensor, "_ d_model"]]], k: int) -> Float[Tensor, "n n"]:
    """Overlap of the k leading output directions of every two output matrices."""
    return overlap_matrix([write_space(matrix, k) for _, matrix in matrices])


def overlap_rows(
    matrices: Sequence[tuple[Site, Float[Tensor, "_ d_model"]]], k: int, draws: int, generator: torch.Generator
) -> list[Row]:
    """Mean overlap between layers for attention, MLP and both, beside that of randomly rotated matrices.

    And a row "overlap_pair" for every two matrices, by the numbers of their blocks: their overlap over that chance.
    """
    overlap, d_model = overlaps(matrices, k), matrices[0][1].shape[1]
    rows: list[Row] = []
    for part, kinds in PARTS.items():
        chosen = [index for index, (site, _) in enumerate(matrices) if site.kind in kinds]
        null = chance_overlaps(d_model, k, len(chosen), draws, generator)
        value = mean_of_pairs(overlap[chosen][:, chosen])
        rows.append(
            {
                "kind": "overlap",
                "part": part,
                "k": k,
                "value": value,
                "chance": float(null.mean()),
                "chance_low": float(null.min()),
                "chance_high": float(null.max()),
            }
        )
    chance = float(rows[-1]["chance"])
    return rows + [
        {
            "kind": "overlap_pair",
            "source": matrices[i][0].layer,
            "target": matrices[j][0].layer,
            "kinds": f"{matrices[i][0].kind} {matrices[j][0].kind}",
            "times": float(overlap[i, j]) / chance,
        }
        for i in range(len(matrices))
        for j in range(i + 1, len(matrices))
    ]


def likeness_rows(points: Float[Tensor, "samples layer d_model"], splits: int, generator: torch.Generator) -> list[Row]:
    """Likeness of every two layers, and the share of one that a map from the other predicts on unseen samples.

    For every ordered pair a row "likeness": CKA, CKA with shuffled samples, Procrustes distance; for a layer with
    itself `ceiling`, the CKA of two halves of its own coordinates. For every pair and random half a row "carried": the
    shares predicted by a number (`scaling`), a rotation, a learned linear map, and a number after a random rotation
    (`turned`).
    """
    rows: list[Row] = []
    halves = [torch.randperm(len(points), generator=generator, device=generator.device) for _ in range(splits)]
    for i in range(points.shape[1]):
        for j in range(points.shape[1]):
            x, y = points[:, i], points[:, j]
            pair: Row = {"source": i, "target": j}
            if i != j:
                rows += [
                    {"kind": "carried", **pair, "split": split, **_shares(x, y, order, generator)}
                    for split, order in enumerate(halves)
                ]
            row: Row = {
                "kind": "likeness",
                **pair,
                "cka": linear_cka(x, y),
                "shuffled": linear_cka(x, y[halves[0]]),
                "procrustes": procrustes_distance(x, y),
            }
            rows.append(row | ({"ceiling": split_half_cka(x, generator)} if i == j else {}))
    return rows


def flat_rows(
    points: Float[Tensor, "samples layer d_model"],
    groups: Int[Tensor, " samples"],
    *,
    neighbours: int,
    triangles: int,
    copies: int,
    generator: torch.Generator,
) -> list[Row]:
    """Measures of curvature of each layer's cloud, of Gaussians of its covariance, and of Gaussians of each group.

    And of Gaussians bent along their longest axis, which are known not to be flat.
    """
    rows: list[Row] = []
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    for depth in range(points.shape[1]):
        x = points[:, depth].double()
        clouds = [("measured", 0, x)]
        clouds += [("gaussian", copy, gaussian_copy(x, generator)) for copy in range(copies)]
        clouds += [("grouped", copy, grouped_copy(x, groups, generator)) for copy in range(copies)]
        bends = random_stream(seed, 1, device=generator.device)  # apart, so that the draws of the others stay
        clouds += [("bent", copy, bent_copy(x, bends)) for copy in range(copies)]
        for cloud, copy, one in clouds:
            # the same triangles for all clouds of a layer
            chooser = torch.Generator().manual_seed(seed)
            measures = flatness(one, neighbours=neighbours, triangles=triangles, generator=chooser)
            rows.append(
                {
                    "kind": "flat",
                    "depth": depth,
                    "cloud": cloud,
                    "copy": copy,
                    "ratio": measures.ratio,
                    "defect": measures.defect,
                    "dimension": measures.dimension,
                }
            )
    return rows


def _shares(
    x: Float[Tensor, "samples d_model"],
    y: Float[Tensor, "samples d_model"],
    order: Int[Tensor, " samples"],
    generator: torch.Generator,
) -> dict[str, float]:
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    turned = randomly_turned(x, generator)
    return {
        "scaling": explained_share(fit_scaling(x[train], y[train]), x[test], y[test]),
        "rotation": explained_share(fit_rotation(x[train], y[train]), x[test], y[test]),
        "linear": explained_share(fit_linear(x[train], y[train]), x[test], y[test]),
        "turned": explained_share(fit_scaling(turned[train], y[train]), turned[test], y[test]),
    }
