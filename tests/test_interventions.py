"""Interventions against closed forms and laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mi_ortho.interventions.edits import Ablate, Above, Add, Affine, Erase, Rotate, RotateTo, When

D = 12
seeds = st.integers(0, 2**31)
angles = st.floats(-7.0, 7.0)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-9)


def test_add_one_vector_for_all_rows_or_one_for_each():
    x, v = normal(0, 3, 5, D), normal(1, 3, D)
    assert torch.equal(Add(v[0])(x), x + v[0])
    assert torch.equal(Add(v)(x), torch.stack([x[i] + v[i] for i in range(3)]))
    assert torch.equal(Add(v, strength=-2.0)(x), torch.stack([x[i] - 2.0 * v[i] for i in range(3)]))


@given(seeds, st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_ablation_is_the_orthogonal_projection_off_the_span(seed: int, k: int):
    x, directions = normal(seed, 2, 3, D), normal(seed + 1, k, D)
    once = Ablate(directions)(x)
    assert close(Ablate(directions)(once), once)
    assert close(once @ directions.T, torch.zeros(2, 3, k, dtype=x.dtype))
    # what was removed lies in the span: a least-squares fit on the directions leaves nothing
    removed = (x - once).reshape(-1, D).T
    fit = directions.T @ torch.linalg.lstsq(directions.T, removed).solution
    assert close(fit, removed)


def test_ablation_ignores_repeated_and_zero_directions():
    x, v = normal(0, 1, 2, D), normal(1, D)
    assert close(Ablate(torch.stack([v, 2 * v, 0 * v]))(x), Ablate(v[None])(x))
    assert torch.equal(Ablate(torch.zeros(1, D, dtype=x.dtype))(x), x)


@given(seeds, angles, angles)
@settings(max_examples=25, deadline=None)
def test_rotations_compose_and_keep_lengths_and_the_rest(seed: int, a: float, b: float):
    x, plane = normal(seed, 2, 3, D), normal(seed + 1, 2, D)
    turned = Rotate(plane, a)(x)
    assert close(Rotate(plane, b)(turned), Rotate(plane, a + b)(x))
    assert close(turned.norm(dim=-1), x.norm(dim=-1))
    assert close(Ablate(plane)(turned), Ablate(plane)(x))


def test_a_quarter_turn_takes_the_first_direction_to_the_second():
    plane = torch.eye(D)[[3, 7]]
    x = torch.eye(D)[3][None, None]
    assert torch.allclose(Rotate(plane, math.pi / 2)(x)[0, 0], torch.eye(D)[7], atol=1e-6)
    assert torch.allclose(RotateTo(plane, math.pi / 2)(x)[0, 0], torch.eye(D)[7], atol=1e-6)


@given(seeds, angles, angles)
@settings(max_examples=25, deadline=None)
def test_rotate_to_sets_the_angle_whatever_it_was(seed: int, angle: float, before: float):
    x, plane = normal(seed, 2, 3, D), normal(seed + 1, 2, D)
    placed = RotateTo(plane, angle)(x)
    assert close(RotateTo(plane, angle)(Rotate(plane, before)(x)), placed)
    assert close(Rotate(plane, before)(placed), RotateTo(plane, angle + before)(x))
    assert close(placed.norm(dim=-1), x.norm(dim=-1))
    assert close(Ablate(plane)(placed), Ablate(plane)(x))


def test_when_changes_only_where_the_predicate_holds():
    x, v = normal(0, 4, 5, D), normal(1, D)
    changed = When(lambda x: x[..., 0] > 0, Add(v))(x)
    positive = x[..., 0] > 0
    assert positive.any() and not positive.all()
    assert torch.equal(changed[positive], x[positive] + v) and torch.equal(changed[~positive], x[~positive])


MAPS = {
    "add": Add(torch.ones(D)),
    "ablate": Ablate(torch.ones(1, D)),
    "rotate": Rotate(torch.eye(D)[:2], 1.0),
    "rotate_to": RotateTo(torch.eye(D)[:2], 1.0),
    "when": When(lambda x: x[..., 0] > 0, Add(torch.ones(D))),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pure_and_in_the_dtype_of_the_activation(name: str, dtype: torch.dtype):
    x = normal(0, 2, 3, D).to(dtype)
    before = x.clone()
    changed = MAPS[name](x)
    assert changed.dtype == dtype and changed.shape == x.shape
    assert torch.equal(x, before) and not torch.equal(changed, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: Add(torch.full((D,), bad)),
        lambda bad: Add(torch.ones(D), strength=bad),
        lambda bad: Ablate(torch.full((2, D), bad)),
        lambda bad: Rotate(torch.full((2, D), bad), 1.0),
        lambda bad: Rotate(torch.eye(2, D), bad),
        lambda bad: RotateTo(torch.eye(2, D), bad),
    ],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_refused_when_made(make, bad: float):
    with pytest.raises(ValueError, match="got .*; expected"):
        make(bad)


@pytest.mark.parametrize("plane", [torch.ones(2, D), torch.zeros(2, D), torch.eye(2, D) * torch.tensor([[1.0], [0.0]])])
@pytest.mark.parametrize("kind", [Rotate, RotateTo])
def test_a_plane_needs_two_independent_directions(kind, plane: Tensor):
    with pytest.raises(ValueError, match="parallel or zero"):
        kind(plane, 1.0)


@pytest.mark.parametrize("name", ["add", "ablate", "rotate", "rotate_to", "when"])
def test_a_wrong_width_is_refused(name: str):
    with pytest.raises(ValueError, match=f"of width {D}; expected {D + 1}"):
        MAPS[name](torch.ones(2, 3, D + 1))


def test_a_wrong_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="got 3 vectors; expected one or 2"):
        Add(torch.ones(3, D))(torch.ones(2, 5, D))


@given(seeds, st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_strengths_and_angles_of_rows_are_those_of_the_rows_alone(seed: int, rows: int):
    x, v, plane = normal(seed, rows, 3, D), normal(seed + 1, D), normal(seed + 2, 2, D)
    per_row = normal(seed + 3, rows)
    for make in (
        lambda s: Add(v, s),
        lambda s: Ablate(plane, s),
        lambda s: Affine(plane, v, 2 * v, s),
        lambda s: Rotate(plane, s),
        lambda s: RotateTo(plane, s),
    ):
        together = make(per_row)
        assert together.rows == rows
        assert close(together(x), torch.cat([make(float(s))(x[i : i + 1]) for i, s in enumerate(per_row)]))


def test_ablation_of_strength_two_reflects_and_of_strength_zero_leaves():
    x, v = normal(0, 2, 3, D), normal(1, 1, D)
    twice = Ablate(v, 2.0)
    assert close(twice(twice(x)), x) and close(twice(x) @ v[0], -(x @ v[0]))
    assert torch.equal(Ablate(v, 0.0)(x), x)


@given(seeds, st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_affine_editing_puts_the_reference_inside_the_span(seed: int, k: int):
    x, directions, reference, added = normal(seed, 2, 3, D), normal(seed + 1, k, D), normal(seed + 2, D), normal(3, D)
    edited = Affine(directions, reference, added, 0.0)(x)
    assert close(edited @ directions.T, (reference @ directions.T).expand(2, 3, k))
    assert close(Ablate(directions)(edited), Ablate(directions)(x))
    assert close(Affine(directions, 0 * reference, added, 0.0)(x), Ablate(directions)(x))
    assert close(Affine(directions, reference, added, 1.5)(x), edited + 1.5 * added)


def test_erasing_along_an_oblique_projection():
    left, right, center = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0.5, 0.0])
    assert torch.equal(Erase(left, right, center)(torch.tensor([[[2.5, 3.0]]])), torch.tensor([[[0.5, 1.0]]]))


def test_above_sees_the_side_of_a_direction_and_not_its_length():
    x, v = normal(0, 4, 5, D), normal(1, D)
    expected = x @ v > 0
    assert torch.equal(Above(v)(x), expected) and torch.equal(Above(100 * v)(x), expected)
    assert expected.any() and not expected.all()
    adaptive = When(Above(v), RotateTo(torch.stack([v, normal(2, D)]), math.pi / 2))(x)
    assert close((adaptive @ v)[expected], torch.zeros(int(expected.sum()), dtype=x.dtype))
    assert torch.equal(adaptive[~expected], x[~expected])
    with pytest.raises(ValueError, match="length 0"):
        Above(torch.zeros(D))


def test_the_angle_of_rotate_to_is_absolute_in_the_plane():
    plane = torch.eye(D)[[3, 7]]
    x = torch.zeros(1, 1, D)
    x[..., 3], x[..., 7], x[..., 0] = -3.0, 4.0, 9.0  # length 5 inside the plane, at an angle well above 90 degrees
    for degrees in (0, 90, 200, 350):
        a = math.radians(degrees)
        placed = RotateTo(plane, a)(x)[0, 0]
        expected = torch.tensor([5 * math.cos(a), 5 * math.sin(a), 9.0])
        assert torch.allclose(placed[[3, 7, 0]], expected, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: Add(torch.ones(D), s),
        lambda s: Ablate(torch.ones(1, D), s),
        lambda s: Rotate(torch.eye(D)[:2], s),
        lambda s: RotateTo(torch.eye(D)[:2], s),
        lambda s: Affine(torch.ones(1, D), torch.ones(D), torch.ones(D), s),
    ],
)
def test_strengths_for_another_number_of_rows_are_refused(make):
    with pytest.raises(ValueError, match="got 3 .*; expected one or 2"):
        make(torch.ones(3))(torch.ones(2, 5, D))
    with pytest.raises(ValueError, match="got .*; expected"):
        make(torch.tensor([1.0, math.nan]))
