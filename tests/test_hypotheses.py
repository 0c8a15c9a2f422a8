"""The claims about families of orthogonal vectors, on maps of known answer: they fire there, and not by chance."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from toys import DTYPE, flat_energy, linear, randn, rng, rotation, spread

from experiments.lab import at_least
from experiments.lab.families import DEMO, Setup
from mi_ortho import FunctionMap, Lbfgs, OrthoSettings, Status, linear_null, match, melbo_ortho

Tensor = torch.Tensor
Row = Mapping[str, Any]
SEEDS = range(20)


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


def outcomes(name: str, rows: Sequence[Row]) -> list[bool | None]:
    return [verdict.supported for verdict in module(name).judge(rows)]


def tagged(rows: Sequence[Row], **tags: object) -> list[Row]:
    return [{**row, **tags} for row in rows]


def family(z: Any, base: Tensor, n: int, seed: int = 0, **settings: Any) -> list[Any]:
    options = OrthoSettings(**{"solver": Lbfgs(max_steps=30), "patience": 3, **settings})
    found = melbo_ortho(match(z, base), base, seed=seed, settings=options)
    return list(islice((one for one in found if one.status is not Status.COLLAPSED), n))


def along(direction: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear effect, 1 at the direction itself."""
    return lambda theta: theta @ direction / direction.square().sum()


def energy(inside: Tensor, norm: float) -> Callable[[Tensor], Tensor]:
    """A quadratic effect, 1 for any vector of this norm inside a subspace."""
    return lambda theta: (theta @ inside.mT).square().sum(-1) / norm**2


def thresholds(features: Tensor, norm: float) -> Callable[[Tensor], Tensor]:
    """Separate features, each with effect 1 at this norm and none below 0.8 of it."""
    return lambda theta: ((theta @ features.mT / norm - 0.8).clamp_min(0) / 0.2).sum(-1)


def equal_shares(n: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n orthonormal vectors with equal components along one unit direction, and that direction."""
    turned = rotation(width, seed)
    vectors = turned[:n]
    return vectors, vectors.sum(0) / n**0.5


EFFECTS = {
    "linear": lambda seed: (equal_shares(12, 24, seed)[0], along(equal_shares(12, 24, seed)[1] / 12**0.5)),
    "quadratic": lambda seed: (rotation(24, seed)[:12], energy(rotation(24, seed)[:12], 1.0)),
    "features": lambda seed: (rotation(24, seed)[:12], thresholds(rotation(24, seed)[:12], 1.0)),
}


# --- D1: counts against the capacity of a linear response


def counted(z: Any, base: Tensor, losses: Mapping[float, Sequence[float]]) -> list[Row]:
    name, rows = "more_vectors_than_a_linear_response_allows", []
    for cap, scale in ((1.0, 1.02), (0.0, 2.0)):
        found = module(name).examine(z, base, scale * float(base.norm()), losses[scale], losses[scale])
        rows += [{"cap": cap, "loss": loss, **row} for loss, row in zip(module(name).LOSSES, found, strict=True)]
    return rows


def test_quadratic_families_exceed_the_capacity_of_a_line() -> None:
    name = "more_vectors_than_a_linear_response_allows"
    rows: list[Row] = []
    for seed in range(2):
        z, inside = flat_energy(18, 14, seed=10 * seed)
        base = 2.0 * inside[0]
        losses = dict.fromkeys((1.02, 2.0), [one.loss for one in family(z, base, 16, seed, max_norm=2.04)])
        rows += tagged(counted(z, base, losses), case=seed)
    assert all(row["found"] >= 13 for row in rows if row["cap"] == 1.0 and row["loss"] == 0.5)
    assert outcomes(name, [{**row, "cap": 0.0} for row in rows if row["cap"] == 1.0])[0] is True


def test_linear_maps_never_exceed_their_capacity() -> None:
    name = "more_vectors_than_a_linear_response_allows"
    for seed in SEEDS:
        rows = []
        for case in range(2):
            z, base = linear(spread(12, 40.0), seed=100 * seed + case)[0], randn(12, seed=7 * seed + case)
            best, norm = linear_null(z.jacobian, base, 10), float(base.norm())
            losses = {scale: best.losses[best.norms <= scale * norm].tolist() for scale in (1.02, 2.0)}
            rows += tagged(counted(z, base, losses), case=case)
        assert all(row["found"] <= row["bound"] + 1e-6 for row in rows)
        assert outcomes(name, rows)[0] is not True


# --- H9 and H10: one direction, one gradient


def test_a_shared_component_is_found_and_not_by_chance() -> None:
    name, width, n = "vectors_share_the_mean_difference", 64, 16
    examine = module(name).examine
    planted = [examine(*equal_shares(n, width, seed), rng(seed)) for seed in range(4)]
    assert outcomes(name, tagged(planted, match="kl")) == [True, True]
    assert planted[0]["bound"] == pytest.approx(n)  # each cosine is 1 / sqrt(n): the bound is met exactly
    for seed in SEEDS:
        null = [
            examine(rotation(width, 50 * seed + k)[:n], randn(width, seed=999 * seed + k), rng(k)) for k in range(4)
        ]
        assert True not in outcomes(name, tagged(null, match="kl"))


def test_a_gradient_explains_linear_effects_only() -> None:
    name = "one_gradient_explains_every_vector"
    examine = module(name).examine
    for kind, expected in (("linear", [True, True, True]), ("quadratic", [False, False, False])):
        rows = [
            examine(effect, vectors, 1.0, rng(seed)) for seed in range(4) for vectors, effect in [EFFECTS[kind](seed)]
        ]
        assert outcomes(name, tagged(rows, match="kl")) == expected
    for seed in SEEDS:
        null = [examine(along(randn(24, seed=80 * seed + k)), rotation(24, 70 * seed + k)[:12], 1.0, rng(k))
                for k in range(4)]  # fmt: skip
        assert outcomes(name, tagged(null, match="kl"))[0] is not True


# --- H6, H7, D3, D4: means, composition, the shared direction


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [False, True, True]), ("quadratic", [True, True, True]), ("features", [True, False, True])],
)
def test_means_tell_the_three_stories_apart(kind: str, expected: list[bool]) -> None:
    name = "means_scaled_by_root_n_keep_the_effect"
    rows: list[Row] = []
    for seed in range(3):
        vectors, effect = EFFECTS[kind](seed)
        rows += tagged(module(name).examine(effect, vectors, rng(seed)), case=seed, match="kl", group="family")
    assert outcomes(name, rows) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [False, True, False]), ("quadratic", [True, True, True]), ("features", [True, False, False])],
)
def test_composition_tells_the_three_stories_apart(kind: str, expected: list[bool]) -> None:
    name = "effects_compose_like_a_quadratic_form"
    rows = [module(name).examine(effect, vectors, rng(seed))
            for seed in range(3) for vectors, effect in [EFFECTS[kind](seed)]]  # fmt: skip
    assert outcomes(name, tagged(rows, match="kl", group="family")) == expected


@pytest.mark.parametrize(("kind", "expected"), [("linear", True), ("quadratic", False), ("features", False)])
def test_the_shared_direction_works_where_the_effect_is_linear(kind: str, expected: bool) -> None:
    name = "one_shared_direction_carries_the_effect"
    rows = [module(name).examine(effect, vectors, 1.0, rng(seed))
            for seed in range(3) for vectors, effect in [EFFECTS[kind](seed)]]  # fmt: skip
    assert outcomes(name, tagged(rows, match="kl")) == [expected]
    assert rows[0]["length"] == pytest.approx(12**-0.5)


# --- H3: norms


def test_a_flat_spectrum_keeps_its_vectors_at_the_bases_norm_and_a_peak_does_not() -> None:
    name, width = "vectors_of_the_bases_norm_are_as_many", 16
    for peak, expected in ((1.0, True), (9.0, False)):
        rows: list[Row] = []
        for seed in range(2):
            turned, strengths = rotation(width, seed), torch.ones(width, dtype=DTYPE)
            strengths[0] = peak

            def squares(theta: Tensor, turned: Tensor = turned, strengths: Tensor = strengths) -> Tensor:
                return ((theta @ turned.mT).square() * strengths).sum(-1, keepdim=True)

            z, base = FunctionMap(squares, width), turned[0]

            def effect(theta: Tensor, z: FunctionMap = z, peak: float = peak) -> Tensor:
                return z(theta)[:, 0] / peak

            for norms, limits in (("cap", {"max_norm": 3.0}), ("fixed", {"max_norm": 1.0, "min_norm": 1.0})):
                vectors = torch.stack([one.vector for one in family(z, base, 8, seed, **limits)] or [base * 0])
                found = module(name).examine(effect, vectors, 1.0, 8, rng(seed))
                rows.append({"case": seed, "norms": norms, **found})
            rows.append({"case": seed, **{**rows[-1], "norms": "penalised"}})
        assert outcomes(name, rows) == [expected, expected, True]


# --- judging alone: counts of groups


def test_counts_of_controls_decide_about_the_behaviour() -> None:
    name = "families_belong_to_what_the_base_does"

    def rows(controls: int) -> list[Row]:
        return [{"case": case, "group": group, "found": 12 + case % 2 if group == "behaviour" else controls}
                for case in range(4) for group in ("behaviour", *module(name).CONTROLS)]  # fmt: skip

    assert outcomes(name, rows(2)) == [True] * 5 and outcomes(name, rows(12)) == [False] * 5
    assert module(name).judge(rows(2))[0].control == 2.0


def test_random_bases_do_not_differ_from_random_bases() -> None:
    name = "families_belong_to_what_the_base_does"
    for seed in SEEDS:
        drawn = torch.randint(3, 9, (4, 6), generator=rng(seed)).tolist()
        rows = [{"case": case, "group": group, "found": drawn[case][k]}
                for case in range(4) for k, group in enumerate(("behaviour", *module(name).CONTROLS))]  # fmt: skip
        assert True not in outcomes(name, rows)


def test_supervised_base_is_scaled_to_the_same_displacement() -> None:
    name = "supervised_base_has_a_smaller_family"
    z, right = linear(torch.linspace(1, 4, 8), seed=3)
    scaled = module(name).equalised_base(z, right[-1], 2.0 * right[0])  # fmt: skip
    moved = [(z(v[None]) - z(0 * v[None])).norm() for v in (scaled, 2.0 * right[0])]
    assert float(moved[0]) == pytest.approx(float(moved[1]), rel=0.06)
    assert module(name).equalised_base(FunctionMap(lambda t: t[:, :1], 8), torch.eye(8)[1], torch.eye(8)[0]) is None
    rows = [{"case": k, "melbo": 16, "supervised": 4, "random": 9, "cosine": 0.6 - k / 90, "shuffled": 0.0}
            for k in range(4)]  # fmt: skip
    assert outcomes(name, rows) == [True, True]
    assert outcomes(name, [{**row, "supervised": 16, "cosine": 0.02 * row["case"]} for row in rows]) == [False, False]


def test_standard_setting_is_that_of_the_demo() -> None:
    setup = Setup()
    assert (setup.source, setup.target, setup.radius) == (DEMO["source"], DEMO["target"], DEMO["radius"])
    assert setup.norm_cap == DEMO.get("norm_cap", 0.0) and at_least("", "", "", [], 0.0, []).supported is None
