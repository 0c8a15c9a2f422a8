"""How many things a family of vectors really is: cosines, spectra, clusters, each against random families.

A family can look diverse because it is large, or alike because all of it shares one direction. Every number here is
therefore compared with random families of the same size and mean |cosine| (`nulls.random_cone`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from mi_ortho.interventions.subspace import cosine_matrix
from mi_ortho.nulls.chance import random_cone
from mi_ortho.nulls.linear import rank_p_value

CLUSTER = 0.5  # |cosine| from which two vectors count as alike


NAMES = {  # of the numbers of a Multiplicity, as pages show them
    "mean_cosine": "mean |cosine|",
    "sd_cosine": "sd of |cosine|",
    "condition": "condition number",
    "participation": "participation ratio",
    "effective_rank": "effective rank",
    "clusters": "clusters",
}


@dataclass(frozen=True)
class Multiplicity:
    """One family in numbers, all of its unit vectors, so that norms play no part.

    Attributes:
        n: how many vectors.
        mean_cosine: mean |cosine| over pairs.
        sd_cosine: standard deviation of |cosine| over pairs.
        condition: largest over smallest singular value; infinite for dependent vectors. Grows with n.
        participation: (sum s^2)^2 / sum s^4, from 1 (one direction) to n (orthogonal).
        effective_rank: exp of the entropy of s / sum s (Roy and Vetterli 2007), from 1 to n.
        clusters: groups under average linkage in which |cosine| is at least 1/2.
    """

    n: int
    mean_cosine: float
    sd_cosine: float
    condition: float
    participation: float
    effective_rank: float
    clusters: int


def multiplicity_of(vectors: Float[Tensor, "n d_model"]) -> Multiplicity:
    """How many different directions a family holds, by its pairs and by its spectrum.

    Raises:
        ValueError: fewer than 2 vectors, a zero vector, or entries that are not finite.

    >>> family = multiplicity_of(torch.eye(4))
    >>> family.mean_cosine, round(family.participation, 6), round(family.effective_rank, 6), family.clusters
    (0.0, 4.0, 4.0, 4)
    """
    cosines = pair_cosines(vectors).abs()
    singular = torch.linalg.svdvals(torch.nn.functional.normalize(vectors.double(), dim=-1))
    square, share = singular.square(), singular / singular.sum()
    zero = singular[-1] <= 1e-12 * singular[0]
    return Multiplicity(
        n=len(vectors),
        mean_cosine=float(cosines.mean()),
        sd_cosine=float(cosines.std(correction=0)),
        condition=math.inf if zero or len(vectors) > vectors.shape[1] else float(singular[0] / singular[-1]),
        participation=float(square.sum() ** 2 / square.square().sum()),
        effective_rank=math.exp(-float(torch.special.xlogy(share, share).sum())),
        clusters=int(clusters(vectors).max()) + 1,
    )


def pair_cosines(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " pairs"]:
    """Cosines of all n (n - 1) / 2 pairs, signed, in float64."""
    norms = vectors.norm(dim=-1)
    if len(vectors) < 2 or not bool((norms > 0).all() and torch.isfinite(norms).all()):
        raise ValueError(
            f"got {len(vectors)} vectors of norms {norms.tolist()[:5]}…; expected at least 2, finite and not 0; "
            "leave the others out"
        )
    rows, columns = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    return cosine_matrix(vectors)[rows, columns].clamp(-1, 1)


def cosine_histogram(
    vectors: Float[Tensor, "n d_model"], bins: int = 40
) -> tuple[Float[Tensor, " bins"], Float[Tensor, " edges"]]:
    """Counts of pairs by signed cosine from -1 to 1, and the edges of the bins."""
    if bins < 1:
        raise ValueError(f"got bins={bins}; expected at least 1; 40 suits a figure")
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)
    return torch.histogram(pair_cosines(vectors).cpu(), edges).hist, edges


def clusters(vectors: Float[Tensor, "n d_model"], *, cosine: float = CLUSTER) -> Int[Tensor, " n"]:
    """A cluster number for every vector, the largest cluster 0, by average linkage on 1 - |cosine|.

    Clusters are cut where the mean |cosine| between two of them is below `cosine`; opposite vectors count as alike.
    """
    if not 0 < cosine < 1:
        raise ValueError(f"got cosine={cosine}; expected between 0 and 1; 0.5 is the default")
    tree = linkage(1 - pair_cosines(vectors).abs().cpu().numpy(), "average")
    labels = torch.from_numpy(fcluster(tree, 1 - cosine + 1e-12, "distance")).long() - 1
    order = torch.bincount(labels).argsort(descending=True, stable=True)
    return order.argsort()[labels]


def survival(scores: Float[Tensor, " n"], thresholds: Float[Tensor, " t"]) -> Int[Tensor, " t"]:
    """How many scores reach each threshold."""
    if bool(torch.isnan(scores).any()):
        raise ValueError("got scores with NaN; expected numbers; leave out what was not measured")
    return (scores[None] >= thresholds[:, None]).sum(-1)


@dataclass(frozen=True)
class Compared:
    """One number of a family beside the same number of random families.

    Attributes:
        value: the family's.
        null: those of the random families.
        p_low: chance of one this small under the null.
        p_high: chance of one this large.
    """

    value: float
    null: tuple[float, ...]
    p_low: float
    p_high: float

    @property
    def mean(self) -> float:
        """Mean of the null."""
        return sum(self.null) / len(self.null)


def compare_with_null(value: float, null: Sequence[float]) -> Compared:
    """Rank a value among a null's, from both sides.

    >>> compare_with_null(2.0, [1.0, 3.0, 4.0]).p_low
    0.5
    """
    low = rank_p_value(-value, [-score for score in null])
    return Compared(value, tuple(null), low, rank_p_value(value, null))


Draw = Callable[[torch.Generator], Tensor]


def multiplicity_against(
    vectors: Float[Tensor, "n d_model"], draw: Draw, *, seed: int = 0, draws: int = 20
) -> Mapping[str, Compared]:
    """Every number of `multiplicity_of` beside those of `draws` families that `draw` makes, by name.

    Args:
        vectors: the family.
        draw: makes one random family from a generator.
        seed: of the first draw; draw i uses seed + i.
        draws: at least 10; the smallest p-value possible is 1 / (draws + 1).
    """
    if draws < 10:
        raise ValueError(f"got draws={draws}; expected at least 10; with fewer no p-value can be small")
    numbers = asdict(multiplicity_of(vectors))
    null = [asdict(multiplicity_of(draw(torch.Generator().manual_seed(seed + i)))) for i in range(draws)]
    return {name: compare_with_null(float(numbers[name]), [float(row[name]) for row in null]) for name in numbers}


def multiplicity_against_random(
    vectors: Float[Tensor, "n d_model"], *, seed: int = 0, draws: int = 20
) -> Mapping[str, Compared]:
    """`multiplicity_against` random families of the same size and mean |cosine|: is there structure beyond it?

    A participation ratio or a number of clusters below the null's says that the vectors are alike in groups, not all in
    the same way.
    """
    family = multiplicity_of(vectors)
    return multiplicity_against(
        vectors,
        lambda generator: random_cone(family.n, vectors.shape[1], min(family.mean_cosine, 1 - 1e-9), generator),
        seed=seed,
        draws=draws,
    )


def aligned(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """The vectors with signs turned towards their top singular direction, which the first vector's side fixes.

    The singular vectors of a map, and a cluster by |cosine|, have arbitrary signs: averaged as they are, they cancel.
    """
    top = top_direction(vectors)
    signs = torch.where(vectors @ top < 0, -1.0, 1.0).to(vectors)
    return vectors * (signs * signs[0])[:, None]


def top_direction(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " d_model"]:
    """The unit vector that captures most of the unit vectors' squared length, on the side of most of them."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    top = torch.linalg.svd(unit, full_matrices=False)[2][0]
    return -top if (unit @ top).sum() < 0 else top


@dataclass(frozen=True, eq=False)
class Representatives:
    """One cluster as vectors to be compared by addition and by ablation.

    Attributes:
        individual: the members, shape (n, d_model), each to be measured alone (their mean and best).
        average: their mean, the shorter the more they differ.
        normalised: their mean at the members' mean norm.
        top_singular: the top singular direction of their unit vectors at the same norm.
    """

    individual: Float[Tensor, "n d_model"]
    average: Float[Tensor, " d_model"]
    normalised: Float[Tensor, " d_model"]
    top_singular: Float[Tensor, " d_model"]

    @property
    def single(self) -> Mapping[str, Float[Tensor, " d_model"]]:
        """The three vectors that stand for the whole cluster, by name."""
        return {"average": self.average, "normalised": self.normalised, "top_singular": self.top_singular}


def representatives(vectors: Float[Tensor, "n d_model"]) -> Representatives:
    """A cluster's members and the vectors that could stand for them, to find out whether the members are one direction.

    Where the normalised mean or the top singular direction beats the typical member, the members are noisy copies of
    one direction; where it fails, they are different. For a cluster of arbitrary signs call `aligned` first.

    Raises:
        ValueError: no vectors, or vectors whose mean is 0.
    """
    if not len(vectors):
        raise ValueError("got an empty cluster; expected at least one vector; take another label")
    mean, norm = vectors.mean(0), vectors.norm(dim=-1).mean()
    if not mean.norm() > 1e-6 * norm:
        raise ValueError("got vectors whose mean is 0; expected them on one side; call aligned(vectors) first")
    return Representatives(vectors, mean, mean * (norm / mean.norm()), top_direction(vectors) * norm)
