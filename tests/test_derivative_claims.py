"""The claims about derivatives, optima and factors: right on maps of known answer, silent where an instrument fails."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_bases import (
    along,
    changed_rows,
    failing,
    measured,
    outcomes,
    planted_base,
    planted_rows,
)
from toys import DTYPE, bent, flat_energy, linear, mlp, randn, rotation, spread, threshold_features, unit

from mi_ortho import FunctionMap, LinearMap

YES, NO = "supported", "not supported"
NEITHER = {"invalid", "undecided"}
Tensor = torch.Tensor


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


def one_base(measure: Callable[[Any], None], z: Any, vector: Tensor, folder: Path, **place: Any) -> list[Any]:
    """Rows of a claim on a base of a given map, its effect that of a line along the base."""
    base = planted_base(0, vector, along(vector), z=z, folder=folder)
    measure(replace(base, place=replace(base.place, **place)))
    return base.bench.held or []


def nine_bases(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one base as those of nine that differ a little."""

    def of_base(k: int) -> list[dict[str, Any]]:
        kept = [{key: value for key, value in row.items() if key not in ("behaviour", "base")} for row in rows]
        moved = {"model": 0.001 * (k % 4), "small": 0.001 * (k % 3)}
        for row in kept:
            if row.get("group") in moved:
                row["losses"] = [loss + moved[row["group"]] for loss in row["losses"]]
        return kept

    return planted_rows(of_base)


# --- second order


SECOND = "second_order_count_matches_the_measured_count"


def counts(**values: Callable[[int], float]) -> list[dict[str, Any]]:
    """Rows of the claim about counts; what is not given agrees with the prediction of some 20."""
    usual = {"predicted": lambda k: 20 + k % 3, "measured": lambda k: 19 + k % 2, "expansion": lambda k: 16 + k % 2}
    every = {**usual, "first_order": lambda k: 1 + k % 2, "open": lambda k: 1, **values}
    flags = {"measured_censored": False, "expansion_censored": False}
    return planted_rows(lambda k: [{"kind": "count", **flags, **{name: int(one(k)) for name, one in every.items()}}])


def test_the_count_of_a_quadratic_effect_is_the_predicted_one_and_that_of_thresholds_is_not(tmp_path: Path) -> None:
    measure, rows = module(SECOND).measure, {}
    for truth in (True, False):
        quadratic, inside = flat_energy(12, 4)
        cut, features = threshold_features(12, 5, 1.0)
        z, vector = (quadratic, inside[0]) if truth else (cut, 1.5 * features[0])
        base = planted_base(0, vector, along(vector), z=z, folder=tmp_path / str(truth))
        measure(replace(base, place=replace(base.place, lost=3)))
        (rows[truth],) = base.bench.held or []
    right, wrong = rows[True], rows[False]
    # four directions with twice the effect that is asked for: eight vectors can share them
    assert right["predicted"] == 8 and right["open"] == 1 and right["first_order"] == 0
    assert right["measured"] == right["expansion"] >= 6 and not right["measured_censored"]
    assert wrong["predicted"] == 0 and wrong["measured"] >= 3


def test_counts_decide_about_second_order() -> None:
    assert outcomes(SECOND, counts()) == [YES, YES, YES]
    assert set(failing(SECOND, counts())) == {"invalid"}
    assert outcomes(SECOND, counts(measured=lambda k: 3 + k % 2)) == [NO, YES, NO]
    assert outcomes(SECOND, counts(measured=lambda k: 90 + k % 2)) == [NO, NO, YES]
    same = outcomes(SECOND, counts(first_order=lambda k: 20 + k % 2))  # the gradient alone would do
    assert same[0] != YES
    assert outcomes(SECOND, counts(expansion=lambda k: 4 + k % 2))[::2] == ["invalid", "invalid"]


def test_counts_that_are_cut_off_conclude_nothing() -> None:
    clamped = counts(open=lambda k: 0, predicted=lambda k: 128)
    assert set(outcomes(SECOND, clamped)) == {"invalid"}
    cut = changed_rows(counts(), {"kind": "count"}, measured_censored=True)
    assert set(outcomes(SECOND, cut)[:2]) <= NEITHER
    few = counts(open=lambda k: k not in (0, 4), predicted=lambda k: 128 if k in (0, 4) else 20 + k % 3)
    assert outcomes(SECOND, few)[0] == YES  # seven of nine are numbers, and enough


def test_a_clamped_spectrum_is_seen(tmp_path: Path) -> None:
    turned, strengths = rotation(8, 1), torch.tensor([1.0] * 2 + [-1.0] * 6, dtype=DTYPE)

    def saddle(theta: Tensor) -> Tensor:
        return ((theta @ turned.mT).square() * strengths).sum(-1, keepdim=True)

    base = planted_base(0, turned[0], along(turned[0]), z=saddle, folder=tmp_path)
    module(SECOND).measure(replace(base, place=replace(base.place, lost=2)))
    (row,) = base.bench.held or []
    assert row["predicted"] == 4 and row["open"] == 0  # twice as many as directions that are not clamped


# --- what the derivative misses


LOCAL = "derivatives_are_local"


def test_what_the_derivative_misses_is_what_was_planted() -> None:
    base = unit(randn(8, seed=3))
    z = FunctionMap(lambda theta: torch.cat([theta, theta @ base[:, None] * (theta @ base[:, None])], -1), 8)

    def make(k: int, curvature: float) -> Any:
        return planted_base(k, base, along(base), z=bent(8, curvature))

    assert module(LOCAL).residuals(z, base[None])[3:] == pytest.approx([1.0, 2.0])

    def rows(curvature: float, others: float = 0.01) -> list[dict[str, Any]]:
        maps = {"tokens": (bent(8, curvature), 1.0), "shuffled": (bent(8, others), 1.0)}
        return measured(lambda one: module(LOCAL).measure(one, maps), lambda k: make(k, curvature))

    curved = rows(1.0)
    assert outcomes(LOCAL, curved) == [YES, NO, YES, YES]  # a random vector that moves as far misses as much
    assert outcomes(LOCAL, rows(0.01)) == [NO, NO, NO, YES] and set(failing(LOCAL, curved)) == {"invalid"}
    only = changed_rows(curved, {"group": "displaced"}, residual=lambda row: 0.2 + 0.01 * row["base"])
    assert outcomes(LOCAL, only)[1] == YES
    odd = changed_rows(curved, {"group": "tokens"}, residual=lambda row: 5 * row["residual"])
    assert outcomes(LOCAL, odd)[3] == NO
    assert outcomes(LOCAL, rows(1.0, others=1.0))[2] == NO  # the architecture has it too
    mixed = changed_rows(curved, {"group": "tokens"}, residual=lambda row: 8.0 ** (row["base"] - 1) * row["residual"])
    assert outcomes(LOCAL, mixed)[3] == "undecided"
    other = {0.03: 1.0, 1.0: 0.03}
    swapped = changed_rows(curved, {"kind": "residual"}, scale=lambda row: other.get(row["scale"], row["scale"]))
    assert outcomes(LOCAL, swapped)[0] != YES


# --- the linear null


NULL = "linear_null_explains_the_family"


def test_a_linear_family_is_told_from_a_curved_one(tmp_path: Path) -> None:
    vector = 8.0 * unit(randn(12, seed=50))
    maps = {"line": linear(spread(12, 30.0))[0], "curve": mlp(12, gain=2.5)}
    line, curve = (
        one_base(module(NULL).measure, z, vector, tmp_path / name, most=4, max_steps=20) for name, z in maps.items()
    )
    assert all(row["distance"] < 0.05 for row in line if row["kind"] == "solved")
    straight = changed_rows(nine_bases(line), {"kind": "losses", "group": "random"}, losses=[0.9] * 4)
    assert outcomes(NULL, straight) == [YES, YES] and outcomes(NULL, nine_bases(curve))[0] == NO
    assert set(failing(NULL, straight)[0::2]) == {"invalid"}  # whether the base works does not matter at a tenth of it
    assert outcomes(NULL, changed_rows(straight, {"kind": "solved"}, distance=0.3)) == ["invalid", "invalid"]
    (same,) = [row["losses"] for row in line if row.get("group") == "linear"]
    any_line = changed_rows(straight, {"kind": "losses", "group": "random"}, losses=same)
    assert YES not in outcomes(NULL, any_line)  # a linear map of any spectrum would be as near


def test_maps_are_squared_without_a_change_of_losses() -> None:
    tall = randn(40, 6, seed=1)
    small, vectors = module(NULL).square(tall), randn(3, 6, seed=2)
    assert small.shape == (6, 6) and torch.allclose((vectors @ small.mT).norm(dim=-1), (vectors @ tall.mT).norm(dim=-1))
    assert module(NULL).square(small) is small
    assert module(NULL).padded(torch.tensor([0.25]), 3) == [0.25, 1.0, 1.0]


# --- the published loop


LOOP = "published_loop_stops_short_of_the_optimum"


def test_a_loop_that_stops_early_is_told_from_one_that_arrives(tmp_path: Path) -> None:
    z, vector = linear(spread(10, 30.0))[0], randn(10, seed=40)
    rows = nine_bases(one_base(lambda base: module(LOOP).measure(base, 2, 3), z, vector, tmp_path, max_steps=100))
    assert outcomes(LOOP, rows) == [YES, YES, YES] and set(failing(LOOP, rows)) == {"invalid"}
    arrived = changed_rows(
        rows,
        {"kind": "loss"},
        model_published=lambda row: row["model_projected"] + 0.001 * row["base"],
        linear_published=lambda row: row["exact"] + 0.001 * row["base"],
    )
    assert outcomes(LOOP, arrived) == [NO, NO, YES]
    chance = changed_rows(rows, {"kind": "loss"}, model_again=lambda row: row["model_published"])
    assert outcomes(LOOP, chance)[0] in (NO, "undecided")  # another start makes as much of a difference
    lame = changed_rows(rows, {"kind": "loss"}, linear_projected=lambda row: row["exact"] + 0.2 + 0.01 * row["base"])
    assert outcomes(LOOP, lame) == ["invalid", "invalid", NO]


# --- factors


FACTORS = "correct_linear_factors_beat_the_published_columns"


def shares(count: int = 9, **values: float) -> list[dict[str, Any]]:
    """Rows of the claim about factors, the shares of some methods replaced."""
    usual = {"linear": 0.5, "quadratic": 0.45, "exponential": 0.7, "melbo": 0.6, "displaced": 0.1, "random": 0.03}
    every = {**usual, "published linear": 0.04, "published quadratic": 0.15}
    every |= {name.replace("_", " "): value for name, value in values.items()}
    places = {name: place + 2 for place, name in enumerate(every)}
    return [
        {"prompt": k, **{name: share + 0.003 * (k * places[name] % 5) for name, share in every.items()}}
        for k in range(count)
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (shares(), [YES] * 4),
        (shares(published_linear=0.5), ["undecided", YES, YES, YES]),
        (shares(displaced=0.5), [YES, "undecided", YES, YES]),
        (shares(linear=0.04, displaced=0.02), [NO, NO, YES, YES]),  # linear ones are no better than random ones
        (shares(exponential=0.2, quadratic=0.05), [YES, YES, NO, NO]),
        (shares(melbo=0.02), ["invalid"] * 4),  # nothing turns answers here
        (shares(random=0.5), ["invalid"] * 4),  # anything does
        (shares(count=4), ["invalid"] * 4),
    ],
)
def test_shares_of_turned_answers_decide(rows: Sequence[Any], expected: list[str]) -> None:
    assert outcomes(FACTORS, rows) == expected


def test_correct_factors_lie_where_the_map_is_sensitive_and_published_columns_do_not() -> None:
    width, inside = 24, {}
    for seed in range(3):
        features, outputs = rotation(width, seed)[:4].float(), rotation(width, seed + 50)[:4].float()

        def z(theta: Tensor, features: Tensor = features, outputs: Tensor = outputs) -> Tensor:
            return torch.expm1(2 * theta @ features.mT) @ outputs + 0.01 * theta

        base = planted_base(seed, features[0], along(features[0]), z=z)
        case = replace(base, place=replace(base.place, radius=1.0))

        def score(vectors: Tensor, features: Tensor = features) -> float:
            return float((vectors @ features.mT).square().sum() / vectors.square().sum())

        inside = module(FACTORS).examine(case, 4, score)
        assert min(inside["linear"], inside["exponential"]) > 0.9
        assert max(inside["published linear"], inside["random"], inside["displaced"]) < 0.5


def test_random_vectors_are_displaced_as_far_as_the_first_factor() -> None:
    right = rotation(12, 4).float()
    line = LinearMap(torch.diag(torch.linspace(3.0, 1.0, 12)) @ right, torch.zeros(12))

    def z(theta: Tensor) -> Tensor:
        return line(theta) + 0.001 * (theta @ right.mT).square()

    base = planted_base(0, right[0], along(right[0]), z=z)
    case, lengths = replace(base, place=replace(base.place, radius=1.0)), []

    def moved(vectors: Tensor) -> float:
        lengths.append(z(vectors).norm(dim=-1).tolist())
        return 0.0

    module(FACTORS).examine(case, 3, moved)
    assert lengths[-1] == pytest.approx([3.0] * 3, rel=0.01)
