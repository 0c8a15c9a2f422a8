"""How many directions a family holds: closed forms, planted clusters, and nulls that find nothing in nothing."""

import math

import pytest
import torch
from toys import DTYPE, randn, rng, rotation

from mi_ortho.multiplicity import (
    aligned,
    clusters,
    compare_with_null,
    cosine_histogram,
    multiplicity_against,
    multiplicity_against_random,
    multiplicity_of,
    pair_cosines,
    representatives,
    survival,
    top_direction,
)
from mi_ortho.nulls import random_cone


def planted(groups: int, each: int, d_model: int, noise: float, seed: int = 0) -> torch.Tensor:
    """`each` noisy copies of each of `groups` orthonormal directions."""
    centres = rotation(d_model, seed)[:groups].repeat_interleave(each, 0)
    return centres + noise * randn(groups * each, d_model, seed=seed + 1) / d_model**0.5


@pytest.mark.parametrize(("n", "cosine"), [(2, 0.3), (5, 0.3), (8, 0.9), (6, 0.0)])
def test_equal_cosines_in_closed_form(n: int, cosine: float) -> None:
    vectors = torch.linalg.cholesky((1 - cosine) * torch.eye(n, dtype=DTYPE) + cosine) * (1 + torch.arange(n))[:, None]
    found = multiplicity_of(vectors @ rotation(n + 3)[:n])
    large, small = 1 + (n - 1) * cosine, 1 - cosine  # eigenvalues of the Gram matrix
    assert found.mean_cosine == pytest.approx(cosine, abs=1e-8) and found.sd_cosine == pytest.approx(0, abs=1e-8)
    assert found.condition == pytest.approx((large / small) ** 0.5, abs=1e-8)
    assert found.participation == pytest.approx(n**2 / (large**2 + (n - 1) * small**2), abs=1e-8)
    total = large**0.5 + (n - 1) * small**0.5
    shares = [large**0.5 / total] + [small**0.5 / total] * (n - 1)
    assert found.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), abs=1e-8)
    assert found.clusters == (1 if cosine >= 0.5 else n)


def test_copies_are_one_direction() -> None:
    copies = randn(6).expand(4, 6) * torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
    found = multiplicity_of(copies)
    assert found.mean_cosine == pytest.approx(1) and found.participation == pytest.approx(1, abs=1e-8)
    assert found.effective_rank == pytest.approx(1, abs=1e-4) and math.isinf(found.condition) and found.clusters == 1
    assert math.isinf(multiplicity_of(randn(7, 5)).condition), "more vectors than dimensions"


def test_cosines_are_signed_and_every_pair_counts_once() -> None:
    vectors = torch.tensor([[1.0, 0.0], [-3.0, 0.0], [0.0, 2.0]])
    assert pair_cosines(vectors).tolist() == [-1.0, 0.0, 0.0]
    counts, edges = cosine_histogram(vectors, bins=4)
    assert counts.tolist() == [1, 0, 2, 0] and edges.tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize("flip", [False, True])
def test_planted_clusters_are_found_whatever_their_signs(flip: bool) -> None:
    vectors = torch.cat([planted(1, 3, 40, 0.3), planted(2, 5, 40, 0.3, seed=0)[5:]])
    signs = torch.where(torch.arange(8) % 2 == 0, -1.0, 1.0)[:, None] if flip else 1.0
    assert clusters(vectors * signs).tolist() == [1, 1, 1, 0, 0, 0, 0, 0], "the largest is 0"
    assert clusters(vectors * signs, cosine=0.999).max() == 7


def test_clusters_beyond_the_mean_cosine_are_seen_and_random_families_have_none() -> None:
    grouped = multiplicity_against_random(planted(4, 5, 60, 0.5), draws=19)
    assert grouped["clusters"].value == 4 and grouped["clusters"].p_low == pytest.approx(1 / 20)
    assert grouped["participation"].p_low == 1 / 20 or grouped["participation"].p_high == 1 / 20
    assert grouped["sd_cosine"].p_high == 1 / 20
    assert grouped["mean_cosine"].mean == pytest.approx(grouped["mean_cosine"].value, abs=1e-8)
    hits = 0
    for seed in range(8):  # a family from the null itself: its p-values are uniform
        null = multiplicity_against_random(random_cone(10, 30, 0.3, rng(1000 + seed)), seed=50 * seed, draws=11)
        hits += null["participation"].p_low <= 0.1
    assert hits <= 3, "at level 1/12 about 1 of 8"


def test_orthogonal_families_are_compared_with_orthogonal_ones() -> None:
    found = multiplicity_against_random(rotation(12)[:8], draws=10)
    assert found["participation"].mean == pytest.approx(8, abs=1e-6)
    with pytest.raises(ValueError, match="got draws=9; expected at least 10"):
        multiplicity_against_random(rotation(12)[:8], draws=9)


def test_a_family_can_be_compared_with_any_other() -> None:
    found = multiplicity_against(
        randn(6, 3), lambda generator: torch.randn(6, 50, generator=generator, dtype=DTYPE), draws=10
    )
    assert found["effective_rank"].p_low == pytest.approx(1 / 11), "three dimensions against fifty"


def test_comparisons_by_hand() -> None:
    found = compare_with_null(2.0, [1.0, 2.0, 3.0])
    assert (found.p_low, found.p_high, found.mean) == (0.75, 0.75, 2.0)


def test_survival_by_hand() -> None:
    assert survival(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.0, 0.5, 1.0])).tolist() == [3, 2, 0]
    with pytest.raises(ValueError, match="got scores with NaN"):
        survival(torch.tensor([0.1, float("nan")]), torch.tensor([0.0]))


def test_representatives_in_closed_form() -> None:
    shared, frame = rotation(10)[0], rotation(10)[1:5]
    members = 3 * (0.6 * shared + 0.8 * frame)
    found = representatives(members)
    assert found.individual is members
    torch.testing.assert_close(found.average, members.mean(0))
    assert float(found.normalised.norm()) == pytest.approx(3) and float(found.top_singular.norm()) == pytest.approx(3)
    towards = 0.6 * shared + 0.2 * frame.sum(0)
    for vector in (found.normalised, found.top_singular):  # by symmetry both point at the members' mean
        torch.testing.assert_close(vector, 3 * towards / towards.norm(), rtol=1e-8, atol=1e-8)
    assert set(found.single) == {"average", "normalised", "top_singular"}


def test_signs_are_aligned_with_the_first_member() -> None:
    members = planted(1, 6, 30, 0.4)
    signs = torch.tensor([1.0, -1, 1, -1, -1, -1], dtype=DTYPE)[:, None]
    torch.testing.assert_close(aligned(members * signs), members)
    torch.testing.assert_close(aligned(-members), -members)
    top = top_direction(members)
    assert float(top.norm()) == pytest.approx(1) and bool((members @ top > 0).all())


def test_what_has_no_multiplicity_is_refused() -> None:
    zero, nan = randn(3, 4), randn(3, 4)
    zero[1], nan[2, 0] = 0, float("nan")
    for bad in (randn(1, 4), zero, nan):
        with pytest.raises(ValueError, match="expected at least 2, finite and not 0"):
            multiplicity_of(bad)
    refused = {
        "got cosine=1": lambda: clusters(randn(3, 4), cosine=1),
        "got bins=0": lambda: cosine_histogram(randn(3, 4), bins=0),
        "got an empty cluster": lambda: representatives(randn(0, 4)),
        "got vectors whose mean is 0": lambda: representatives(torch.stack([randn(4), -randn(4)])),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
