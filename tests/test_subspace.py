"""Subspaces: projections obey their laws, stay orthogonal at full size, and refuse what is not orthonormal."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import DTYPE, randn, rng, rotation

from mi_ortho import Subspace, cosine_matrix, max_abs_cosine, span
from mi_ortho.interventions import empty_subspace, orthonormal_rows, principal_angles

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10_000))


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_projections_are_idempotent_orthogonal_and_complete(shape: tuple[int, int, int]) -> None:
    k, d_model, seed = shape
    subspace = span(randn(min(k, d_model), d_model, seed=seed))
    x = randn(5, d_model, seed=seed + 1)
    inside, outside = subspace.project(x), subspace.reject(x)
    torch.testing.assert_close(subspace.project(inside), inside)
    torch.testing.assert_close(subspace.reject(outside), outside)
    torch.testing.assert_close(inside + outside, x)
    torch.testing.assert_close((inside * outside).sum(-1), torch.zeros(5, dtype=DTYPE), atol=1e-12, rtol=0)
    assert (subspace.basis @ outside.mT).abs().max() < 1e-13
    torch.testing.assert_close(inside.square().sum(-1) + outside.square().sum(-1), x.square().sum(-1))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.integers(0, 10_000))
def test_bessel_no_vector_has_more_than_all_of_itself_inside(d_model: int, seed: int) -> None:
    subspace = span(randn(d_model - 1, d_model, seed=seed))
    unit = torch.nn.functional.normalize(randn(4, d_model, seed=seed + 1), dim=-1)
    assert ((subspace.basis @ unit.mT).square().sum(0) <= 1 + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(1, 4), st.integers(0, 10_000))
def test_extend_spans_the_old_and_the_new(old: int, new: int, seed: int) -> None:
    rows = randn(old + new, 9, seed=seed)
    grown = empty_subspace(9, dtype=DTYPE).extend(rows[:old]).extend(rows[old:])
    assert len(grown) == old + new and grown.d_model == 9
    assert grown.reject(rows).abs().max() < 1e-12
    torch.testing.assert_close(grown.basis, orthonormal_rows(rows))
    at_once = empty_subspace(9, dtype=DTYPE).extend(rows)
    assert torch.equal(at_once.basis, grown.basis), "growing in parts must give the same bits as at once"


@pytest.mark.parametrize("inside_share", [0.0, 0.9999])
def test_all_pairs_stay_orthogonal_at_full_size(inside_share: float) -> None:
    d_model, n = (2048, 1500) if not inside_share else (1024, 400)
    subspace = empty_subspace(d_model)
    while len(subspace) < n:
        rows = torch.nn.functional.normalize(torch.randn(100, d_model, generator=rng(len(subspace))), dim=-1)
        if inside_share and len(subspace):  # nearly all of each candidate lies in the span so far
            mix = torch.randn(100, len(subspace), generator=rng(1 + len(subspace))) @ subspace.basis
            mix = torch.nn.functional.normalize(mix, dim=-1)
            rows = inside_share**0.5 * mix + (1 - inside_share) ** 0.5 * subspace.reject(rows)
        subspace = subspace.extend(rows)
    assert max_abs_cosine(subspace.basis) <= 1e-6
    assert (subspace.basis.double().norm(dim=-1) - 1).abs().max() < 1e-6


def test_a_candidate_inside_the_span_loses_nothing_by_rounding() -> None:
    subspace = span(torch.randn(300, 512, generator=rng()))
    fresh = torch.nn.functional.normalize(subspace.reject(torch.randn(20, 512, generator=rng(1))), dim=-1)
    inside = torch.nn.functional.normalize(torch.randn(20, 300, generator=rng(2)) @ subspace.basis, dim=-1)
    rest = subspace.reject(inside + 1e-5 * fresh)
    cosines = torch.nn.functional.normalize(rest, dim=-1).double() @ subspace.basis.double().mT
    assert cosines.abs().max() < 1e-6


def test_orthonormal_rows_is_gram_schmidt() -> None:
    x = randn(4, 7)
    q = orthonormal_rows(x)
    lower = x @ q.mT
    torch.testing.assert_close(lower, lower.tril())
    assert (lower.diagonal() > 0).all()
    torch.testing.assert_close(lower @ q, x)


def test_span_finds_the_rank() -> None:
    rows = randn(3, 8)
    assert len(span(torch.cat([rows, rows @ rows.mT @ rows]))) == 3
    assert len(span(torch.zeros(2, 8))) == 0
    assert len(span(torch.zeros(0, 8))) == 0


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, 0.5, 1.2, math.pi / 2])
def test_principal_angles_are_the_planted_ones(angle: float) -> None:
    axes = rotation(9)
    a = Subspace(axes[:3])
    tilted = math.cos(angle) * axes[0] + math.sin(angle) * axes[3]
    b = Subspace(torch.stack([tilted, axes[1]]))
    expected = torch.tensor(sorted([0.0, angle]), dtype=DTYPE)
    torch.testing.assert_close(principal_angles(a, b), expected, atol=1e-12, rtol=1e-6)
    torch.testing.assert_close(principal_angles(b, a), expected, atol=1e-12, rtol=1e-6)


def test_cosines_see_negative_and_distant_pairs() -> None:
    rows = torch.eye(600)
    rows[599] = -rows[0]
    assert max_abs_cosine(rows) == 1.0
    assert cosine_matrix(rows)[0, 599] == -1.0
    assert max_abs_cosine(torch.tensor([[1.0, 0.0], [float("nan"), 1.0]])) == math.inf


def test_bad_bases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differ from orthonormal by 1.0e\+00; expected at most.*use span"):
        Subspace(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="orthonormal"):
        Subspace(torch.full((1, 3), float("nan")))
    crooked = torch.eye(200)
    crooked[1] = crooked[0]
    with pytest.raises(ValueError, match="orthonormal"):  # also where the wrong rows are far from the last ones
        Subspace(crooked)


def test_bad_rows_are_refused() -> None:
    subspace = empty_subspace(3).extend(torch.eye(3)[:2])
    for row in (torch.zeros(3), torch.tensor([1.0, 2.0, 0.0]), torch.tensor([float("inf"), 0.0, 0.0])):
        with pytest.raises(ValueError, match="got row 0 of norm .* expected a finite vector .* leave it out"):
            subspace.extend(row[None])
    with pytest.raises(ValueError, match="NaN or infinity"):
        span(torch.full((2, 3), float("nan")))
