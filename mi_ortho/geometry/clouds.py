"""Is a cloud of activations flat? Distances along its neighbour graph against straight ones, and triangles."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from torch import Tensor

from mi_ortho.nulls.chance import covariance_matched


@dataclass(frozen=True)
class Flatness:
    """Three signs of curvature, each to be read beside the same numbers of a flat cloud.

    Attributes:
        ratio: mean over pairs of the distance along the neighbour graph over the straight distance; at least 1.
        defect: mean `triangle_defect` of geodesic triangles; 0 when flat, positive as on a sphere.
        dimension: mean participation ratio of the variances in a neighbourhood.
    """

    ratio: float
    defect: float
    dimension: float


@dataclass(frozen=True, eq=False)
class Geodesics:
    """Shortest paths along a neighbour graph: their lengths, and the point before the last on each."""

    lengths: Float[Tensor, "samples samples"]
    before: Int[Tensor, "samples samples"]


def flatness(
    x: Float[Tensor, "samples d_model"], *, neighbours: int, triangles: int, generator: torch.Generator
) -> Flatness:
    """The three signs of curvature of one cloud of points.

    Args:
        x: different points.
        neighbours: of each point in the graph and in its neighbourhood.
        triangles: random triangles to average over.
        generator: chooses the triangles.

    Raises:
        ValueError: too few points, or points that coincide.
    """
    straight = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    paths = geodesics(straight, neighbours)
    return Flatness(
        geodesic_ratio(paths, straight),
        mean_defect(paths, triangles, generator),
        local_dimension(x, straight, neighbours),
    )


def geodesics(straight: Float[Tensor, "samples samples"], neighbours: int) -> Geodesics:
    """Shortest paths on the graph that joins each point to its nearest ones, as in Isomap (Tenenbaum et al. 2000).

    A minimum spanning tree is added, so that clusters are joined where they come closest.
    """
    n = len(straight)
    if not 1 <= neighbours < n:
        raise ValueError(f"got {neighbours} neighbours among {n} points; expected 1 to {n - 1}; pass more samples")
    apart = straight.clone().fill_diagonal_(torch.inf)
    if not bool((apart > 0).all()):
        raise ValueError(
            "got points that coincide (or NaN); expected different points; drop repeated prompts, and the "
            "embedding of the last token, which is the same for every prompt"
        )
    near = apart.topk(neighbours, largest=False)
    graph = torch.zeros_like(straight).scatter(1, near.indices, near.values)
    tree = torch.from_numpy(minimum_spanning_tree(csr_matrix(straight.cpu().numpy())).toarray())
    joined = torch.stack([graph.cpu(), graph.cpu().mT, tree, tree.mT]).amax(0)
    lengths, before = shortest_path(csr_matrix(joined.numpy()), method="D", directed=False, return_predecessors=True)
    return Geodesics(torch.from_numpy(lengths), torch.from_numpy(np.asarray(before, dtype=np.int64)))


def geodesic_ratio(paths: Geodesics, straight: Float[Tensor, "samples samples"]) -> float:
    """Mean over all pairs of path length over straight distance."""
    pairs = torch.triu_indices(len(straight), len(straight), 1)
    return float((paths.lengths[tuple(pairs)] / straight.cpu()[tuple(pairs)]).mean())


def mean_defect(paths: Geodesics, triangles: int, generator: torch.Generator) -> float:
    """Mean `triangle_defect` of random geodesic triangles, each cut from a corner to the middle of the opposite side.

    Pairs joined by a single edge have no point in between and are left out.
    """
    n = len(paths.lengths)
    corners = torch.randint(n, (triangles, 3), generator=generator, device=generator.device).tolist()
    cuts = []
    for a, b, c in corners:
        middle = _middle(paths, a, b)
        if middle is not None and c not in (a, b, middle):
            cuts.append((a, b, c, middle))
    if not cuts:
        raise ValueError(
            f"got no triangle with a point inside a side among {triangles}; expected some; use fewer "
            "neighbours or more samples"
        )
    a, b, c, m = torch.tensor(cuts).T
    d = paths.lengths
    return float(triangle_defect(d[a, m], d[m, b], d[a, c], d[b, c], d[c, m]).mean())


def triangle_defect(
    am: Float[Tensor, "*n"],
    mb: Float[Tensor, "*n"],
    ac: Float[Tensor, "*n"],
    bc: Float[Tensor, "*n"],
    cm: Float[Tensor, "*n"],
) -> Float[Tensor, "*n"]:
    """How much longer the cut from corner c to a point m on side ab is than in the plane, as |cm|² over |ab|².

    In the plane |cm|² = (|mb| |ac|² + |am| |bc|²) / |ab| - |am| |mb| (Stewart). Positive curvature makes the cut
    longer, negative shorter: this comparison defines curvature from distances alone.

    >>> side = torch.tensor(torch.pi / 2)                              # an octant of the unit sphere
    >>> round(float(triangle_defect(side / 2, side / 2, side, side, side)), 6)
    0.25
    """
    ab = am + mb
    return (cm.square() - (mb * ac.square() + am * bc.square()) / ab + am * mb) / ab.square()


def local_dimension(
    x: Float[Tensor, "samples d_model"], straight: Float[Tensor, "samples samples"], neighbours: int
) -> float:
    """Mean over points of (sum of variances)² / (sum of squared variances) among a point and its neighbours.

    k equal variances give k; one dominant direction gives 1. At most `neighbours`.
    """
    members = straight.topk(neighbours + 1, largest=False).indices
    patches = x.double()[members]
    patches = patches - patches.mean(1, keepdim=True)
    variances = torch.linalg.svdvals(patches).square()
    return float((variances.sum(-1).square() / variances.square().sum(-1)).mean())


def gaussian_copy(x: Float[Tensor, "samples d_model"], generator: torch.Generator) -> Float[Tensor, "samples d_model"]:
    """As many points from a Gaussian with the mean and covariance of x: flat, with the same spread."""
    return x.double().mean(0) + covariance_matched(x.double(), len(x), generator)


def bent_copy(x: Float[Tensor, "samples d_model"], generator: torch.Generator) -> Float[Tensor, "samples d_model"]:
    """A `gaussian_copy` rolled up along its longest axis, as a sheet of paper is: what a curved cloud looks like.

    The axis becomes an arc towards the axis of the second largest spread, on which two standard deviations to each side
    nearly close the circle; the rest stays. Distances along the cloud are as before, straight ones are shorter.
    """
    flat = gaussian_copy(x, generator)
    centre = flat.mean(0)
    axes = torch.linalg.svd(flat - centre, full_matrices=False)[2][:2]
    along, across = ((flat - centre) @ axis for axis in axes)
    radius = along.std() * 2 / 3
    turned = torch.stack(
        [
            (radius - across) * (along / radius).sin() - along,
            radius - (radius - across) * (along / radius).cos() - across,
        ],
        -1,
    )
    return flat + turned @ axes


def grouped_copy(
    x: Float[Tensor, "samples d_model"], groups: Int[Tensor, " samples"], generator: torch.Generator
) -> Float[Tensor, "samples d_model"]:
    """The same within each group of samples, so that clusters stay clusters and only what is inside them is flat.

    Raises:
        ValueError: a group of a single sample, which has no covariance.
    """
    copy = torch.empty_like(x, dtype=torch.float64)
    for group in groups.unique():
        copy[groups == group] = gaussian_copy(x[groups == group], generator)
    return copy


def _middle(paths: Geodesics, a: int, b: int) -> int | None:
    """The point inside the shortest path from a to b that is nearest to its middle; None where there is none."""
    inside: list[int] = []
    step = int(paths.before[a, b]) if a != b else a
    while step != a:
        inside.append(step)
        step = int(paths.before[a, step])
    half = float(paths.lengths[a, b]) / 2
    return min(inside, key=lambda point: abs(float(paths.lengths[a, point]) - half), default=None)
