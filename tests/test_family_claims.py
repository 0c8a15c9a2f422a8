"""The claims about families that files of predictions judge: right on maps of known answer, silent where one fails."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_bases import (
    changed_rows,
    energy,
    equal_shares,
    failing,
    family_of,
    measured,
    outcomes,
    planted_base,
    planted_rows,
    told,
)
from toys import DTYPE, flat_energy, linear, randn, rng, rotation, spread

from mi_ortho import FunctionMap, linear_null
from mi_ortho.nulls import ridge_capacity

YES, NO = "supported", "not supported"
NEITHER = {"invalid", "undecided"}
Tensor = torch.Tensor


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


def of_kind(name: str, kind: str, **options: Any) -> list[dict[str, Any]]:
    """Rows of a claim on bases whose family composes in a way that is known."""

    def make(k: int) -> Any:
        vectors, effect = told(kind, k, **options)
        return planted_base(k, vectors.sum(0) / len(vectors) ** 0.5, effect, kl=vectors, activation=vectors)

    return measured(module(name).measure, make)


# --- doses, means, the shared direction


def doses(power: float) -> list[dict[str, Any]]:
    """A family whose effects grow with this power of the dose, in a space where all else is linear."""

    def make(k: int) -> Any:
        turned = rotation(40, k)
        inside = turned[:5]

        def effect(theta: Tensor) -> Tensor:
            return (theta @ inside.mT).norm(dim=-1).pow(power)

        def z(theta: Tensor) -> Tensor:
            return torch.cat([effect(theta)[..., None], theta @ turned[5:].mT], -1)

        return planted_base(k, inside[0], effect, z=z, kl=(1.5 + 0.01 * k) * inside[1:], activation=inside[1:])

    return measured(module("effects_grow_faster_than_the_dose").measure, make)


def test_exponents_are_the_planted_ones() -> None:
    name = "effects_grow_faster_than_the_dose"
    square, line = doses(2.0), doses(1.0)
    assert outcomes(name, square) == [YES, YES] and outcomes(name, line) == [NO, NO]
    assert set(failing(name, square)) == {"invalid"}
    random_too = changed_rows(square, {"kind": "exponent", "group": "random"}, exponent=1.95)
    assert outcomes(name, random_too)[0] == NO  # what every direction shows is none of the family's own
    (one,) = [row for row in square if row.get("kind") == "exponent" and row["group"] == "family"][:1]
    assert one["exponent"] == pytest.approx(2.0, rel=0.05) and module(name).middle(torch.tensor([torch.nan])) is None
    undecided = changed_rows(square, {"kind": "exponent", "group": "family"}, exponent=lambda row: 1.0 + row["base"])
    assert outcomes(name, undecided)[0] in NEITHER


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [NO, YES, YES]),
        ("quadratic", [NO, YES, YES]),  # single vectors of the means' length lose as much
        ("features", [NO, NO, YES]),
        ("largest", [YES, NO, NO]),  # only here do means lose the effect because they are means
    ],
)
def test_means_tell_the_stories_apart(kind: str, expected: list[str]) -> None:
    name = "means_scaled_by_root_n_keep_the_effect"
    rows = of_kind(name, kind, width=240)  # so that random vectors have little in the family's span
    assert outcomes(name, rows) == expected and set(failing(name, rows)) == {"invalid"}
    random_too = [
        {**row, "effect": next(o["effect"] for o in rows if same(o, row))} if row.get("group") == "random" else row
        for row in rows
    ]
    assert YES not in outcomes(name, random_too)[1:]


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a row is the family's to a random row."""
    keys = ("kind", "behaviour", "base", "n", "how")
    return one.get("group") == "family" and all(one.get(key) == other.get(key) for key in keys)


@pytest.mark.parametrize(("kind", "expected"), [("linear", YES), ("quadratic", NO), ("features", NO)])
def test_the_shared_direction_works_where_the_effect_is_linear(kind: str, expected: str) -> None:
    name = "one_shared_direction_carries_the_effect"
    rows = of_kind(name, kind)
    assert outcomes(name, rows)[0] == expected and set(failing(name, rows)) == {"invalid"}
    common = module(name).shared(told(kind, 0)[0])
    assert float(common.norm()) == pytest.approx(12**-0.5)
    control_too = changed_rows(rows, {"kind": "shared"}, random=1.0, random_longer=1.0)
    assert YES not in outcomes(name, control_too)


# --- norms, rounding, other prompts, other bases


def test_exact_orthogonality_matters_only_where_vectors_are_not_orthogonal() -> None:
    name = "exact_orthogonality_changes_nothing"

    def rows(wrong: float) -> list[dict[str, Any]]:
        def make(k: int) -> Any:
            turned = rotation(24, k)
            effect = energy(turned[:12] * torch.linspace(0.5, 1.5, 12, dtype=DTYPE)[:, None], 0.5)
            return planted_base(k, turned[0], effect, kl=turned[1:9] + wrong * randn(8, 24, seed=k) / 24**0.5)

        return measured(module(name).measure, make)

    assert outcomes(name, rows(1e-7)) == [YES, YES] and YES not in outcomes(name, rows(0.5))
    assert set(failing(name, rows(1e-7))) == {"invalid"}
    assert outcomes(name, changed_rows(rows(1e-7), {"kind": "exact"}, nudged_cosine=0.0, turned=0.0)) == [NO, NO]


@pytest.mark.parametrize(("peak", "expected"), [(1.0, YES), (9.0, NO)])
def test_a_flat_spectrum_keeps_its_vectors_at_the_bases_norm_and_a_peak_does_not(
    peak: float, expected: str, tmp_path: Path
) -> None:
    name, width = "vectors_of_the_bases_norm_are_as_many", 8

    def make(k: int) -> Any:
        turned, strengths = rotation(width, k), torch.ones(width, dtype=DTYPE)
        strengths[0] = peak

        def effect(theta: Tensor) -> Tensor:
            return ((theta @ turned.mT).square() * strengths).sum(-1) / peak

        return planted_base(k, turned[0], effect, z=lambda theta: effect(theta)[..., None], folder=tmp_path)

    base = make(0)
    longer = {**vars(base), "place": replace(base.place, norm_cap=3.0)}
    longer.pop("effect", None)
    grown = [
        type(base)(**longer).grow("kl", base.match, base.vector, cap=cap, fixed=fixed)
        for cap, fixed in ((3.0, False), (1.0, True))
    ]
    found = [family.count(effect=0.5) for family in grown]
    assert not any(one.censored for one in found) and found[0].value == width - 2
    assert found[1].value == (width - 2 if peak == 1.0 else 0)

    def values(k: int) -> list[dict[str, Any]]:
        few = int(found[1].value)
        counts = {"cap": int(found[0].value), "fixed": few, "penalised": few}
        lengths = {"cap": 1.0 if peak == 1.0 else 2.0, "fixed": 1.0, "penalised": 1.0 + 0.01 * k}
        return [
            {
                "kind": "limit",
                "limit": limit,
                "count": count + (k % 2 if limit == "cap" else k // 2 % 2),
                "censored": False,
                "length": lengths[limit],
            }
            for limit, count in counts.items()
        ]

    rows = planted_rows(values)
    assert outcomes(name, rows) == [expected, expected, NO if peak == 1.0 else YES]  # no shorter than the control's
    assert set(failing(name, rows)) == {"invalid"}
    if expected == YES:
        cut = changed_rows(rows, {"kind": "limit"}, censored=True)
        assert set(outcomes(name, cut)[:2]) <= NEITHER


@pytest.mark.parametrize(("late", "expected"), [(0.7, [YES, YES]), (0.1, [YES, NO])])
def test_transfer_is_judged_against_the_base_and_random_vectors(late: float, expected: list[str]) -> None:
    name = "vectors_work_on_other_prompts"

    def values(k: int) -> list[dict[str, Any]]:
        shares = {"base": 0.8 + 0.01 * k, "family": 0.6, "random": 0.1, "late": late, "late random": 0.1}
        return [{"kind": "transfer", "group": group, "share": share, "prompts": 9} for group, share in shares.items()]

    rows = planted_rows(values)
    assert outcomes(name, rows) == expected and set(failing(name, rows)) == {"invalid"}
    assert outcomes(name, changed_rows(rows, {"group": "random"}, share=0.6))[0] == NO


def test_counts_of_controls_decide_about_the_behaviour() -> None:
    name = "families_belong_to_what_the_base_does"
    groups = ("random", "displaced", "covariance", "untrained", "shuffled")

    def rows(control: Callable[[int], int], censored: bool = False) -> list[dict[str, Any]]:
        return planted_rows(
            lambda k: [
                {"kind": "count", "group": group, "censored": censored, "moved": 1.0, "found": number}
                for group, number in (("behaviour", 12 + k % 2), *((group, control(k)) for group in groups))
            ]
        )

    assert outcomes(name, rows(lambda k: 2 + k % 2)) == [YES] * 5
    assert outcomes(name, rows(lambda k: 12)) == [NO] * 5
    assert set(outcomes(name, rows(lambda k: 12, censored=True))) <= NEITHER
    assert set(failing(name, rows(lambda k: 2))) == {"invalid"}
    for seed in range(20):
        drawn = torch.randint(3, 9, (9,), generator=torch.Generator().manual_seed(seed)).tolist()
        assert YES not in outcomes(name, rows(lambda k, drawn=drawn: drawn[k] + 6))


# --- a linear response, a supervised direction


def test_quadratic_families_exceed_the_capacity_of_a_line() -> None:
    name, width = "more_vectors_than_a_linear_response_allows", 14

    def make(k: int) -> Any:
        z, inside = flat_energy(width, 11, seed=10 * k)
        vectors, nothing = 2.0 * inside[1:], torch.ones(10, dtype=DTYPE)
        families = {"activation": vectors, "activation on the linear map": vectors}
        effect = energy(inside, 2.0)
        given = {key: family_of(each, effect, losses=nothing * (key != "activation")) for key, each in families.items()}
        base = planted_base(k, 2.0 * inside[0], effect, z=z)
        return type(base)(**{**vars(base), "given": given, "place": replace(base.place, norm_cap=1.0)})

    rows = measured(module(name).measure, make)
    standard = [row for row in rows if row.get("cap") == "standard" and row["loss"] == 0.5]
    assert all(row["found"] == 11 and row["linear"] == 1 for row in standard)
    assert all(3.8 < row["bound"] < 4.2 for row in standard)  # twice the norm that half of the effect takes
    growing = changed_rows(rows, {"cap": "the base's norm"}, found=lambda row: 2 + row["base"] % 2)
    growing = changed_rows(growing, {"cap": "standard"}, linear=lambda row: 1 + row["base"] % 2)
    assert outcomes(name, growing) == [YES, YES, YES, YES] and set(failing(name, growing)) == {"invalid"}
    few = changed_rows(
        growing, {"cap": "standard"}, found=lambda row: 1 + row["base"] % 2, linear=lambda row: 9 + row["base"] % 2
    )
    assert outcomes(name, few) == [NO, NO, NO, NO]
    cut_off = changed_rows(few, {"cap": "standard"}, found_censored=True)
    assert set(outcomes(name, cut_off)[:2]) <= NEITHER


def test_linear_maps_never_exceed_their_capacity() -> None:
    for seed in range(20):
        z, base = linear(spread(12, 40.0), seed=100 * seed)[0], randn(12, seed=7 * seed)
        best, norm = linear_null(z.jacobian, base, 10), float(base.norm())
        found = int((best.losses[best.norms <= 2.0 * norm] <= 0.5).sum()) + 1
        assert found <= ridge_capacity(z.jacobian, z.jacobian @ base, 2.0 * norm, 0.5) * (1 + 1e-6)


def test_a_shared_component_is_found_and_not_by_chance() -> None:
    name, width, n = "vectors_share_the_mean_difference", 64, 16

    def rows(vectors: Callable[[int], Tensor], direction: Callable[[int], Tensor]) -> list[dict[str, Any]]:
        examine = module(name).examine
        return planted_rows(lambda k: [{"kind": "shared", **examine(vectors(k), direction(k), rng(k))}])

    equal = rows(lambda k: equal_shares(n, width, k)[0], lambda k: equal_shares(n, width, k)[1])
    assert outcomes(name, equal) == [YES, YES] and set(failing(name, equal)) == {"invalid"}
    for seed in range(5):
        null = rows(
            lambda k, at=50 * seed: rotation(width, at + k)[:n], lambda k, at=999 * seed: randn(width, seed=at + k)
        )
        assert YES not in outcomes(name, null)
    control_too = changed_rows(equal, {"kind": "shared"}, shuffled_signs=0.97, shuffled_mass=2.0)
    assert YES not in outcomes(name, control_too)


def test_supervised_base_is_scaled_to_the_same_displacement() -> None:
    name = "supervised_base_has_a_smaller_family"
    z, right = linear(torch.linspace(1, 4, 8), seed=3)
    curved = FunctionMap(lambda theta: torch.tanh(z(theta)), 8)
    for lies_on_a_step in (1.0, 1.0 - 1e-9, 1.03):
        for one in (z, curved):
            base = 2.0 * lies_on_a_step * right[0]
            scaled = module(name).equalised_base(one, right[-1], base)
            moved = [float((one(v[None]) - one(0 * v[None])).norm()) for v in (scaled, base)]
            assert moved[0] == pytest.approx(moved[1], rel=1e-8)
    assert module(name).equalised_base(FunctionMap(lambda t: t[:, :1], 8), torch.eye(8)[1], torch.eye(8)[0]) is None


def test_a_supervised_base_has_few_vectors_only_where_it_has() -> None:
    name = "supervised_base_has_a_smaller_family"

    def rows(supervised: int, cosine: float, effect: float = 0.9) -> list[dict[str, Any]]:
        def values(k: int) -> list[dict[str, Any]]:
            found = {"melbo": 16 + k % 2, "supervised": supervised, "random": 18 - k % 3}
            labels = {"kind": "count", "censored": False, "norm": 1.0}
            counts = [{**labels, "group": group, "found": n, "effect": effect} for group, n in found.items()]
            return [*counts, {"kind": "sum", "cosine": cosine, "shuffled": 0.05}]

        return planted_rows(values)

    assert outcomes(name, rows(4, 0.6)) == [YES] * 4 and outcomes(name, rows(0, 0.6))[0] == YES
    assert outcomes(name, rows(16, 0.02)) == [NO] * 4 and set(failing(name, rows(4, 0.6))) == {"invalid"}
    assert outcomes(name, rows(4, 0.6, effect=0.1))[1] == "invalid"  # its family is one of something else
    cut_off = changed_rows(rows(16, 0.6), {"kind": "count"}, censored=True)
    assert set(outcomes(name, cut_off)[:3]) <= NEITHER
