"""The claims about gradients, composition, means, norms, ranks and restarts: right on maps of known answer only."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from planted_bases import (
    PlantedBase,
    along,
    changed_rows,
    energy,
    equal_shares,
    failing,
    family_of,
    largest,
    measured,
    outcomes,
    planted_base,
    planted_rows,
    told,
)
from toys import DTYPE, flat_energy, randn, rng, rotation, unit

YES, NO = "supported", "not supported"
NEITHER = {"invalid", "undecided"}
Tensor = torch.Tensor
Rows = list[dict[str, Any]]


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


# --- one gradient


def gradient_rows(kind: str) -> Rows:
    """Bases whose log-odds grow along one direction, with the energy in a family's span, or along the path only."""

    def make(k: int) -> Any:
        vectors, direction = equal_shares(12, 120, k)
        raise_by = {
            "linear": along(direction / 12**0.5),
            "quadratic": energy(vectors, 1.0),
            "with a shared part": lambda theta: (theta @ direction).square() * 12,
        }[kind]
        return planted_base(k, direction, lambda theta: torch.sigmoid(8 * raise_by(theta) - 4), kl=vectors)

    return measured(module("one_gradient_explains_every_vector").measure, make)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [YES, YES, YES]), ("quadratic", [NO, NO, NO]), ("with a shared part", [NO, NO, YES])],
)
def test_a_gradient_explains_linear_effects_only(kind: str, expected: list[str]) -> None:
    name = "one_gradient_explains_every_vector"
    rows = gradient_rows(kind)
    assert outcomes(name, rows) == expected and set(failing(name, rows)) == {"invalid"}
    (one,) = [row for row in rows if row.get("kind") == "gradient"][:1]
    assert one["predicted"] == pytest.approx(float(kind == "linear"), abs=0.06)
    swapped = changed_rows(rows, {"kind": "gradient"}, positive_random=1.0, predicted_random=1.0, path_random=1.0)
    assert YES not in outcomes(name, swapped)
    loose = changed_rows(rows, {"kind": "gradient"}, odds_specific=0.6)
    assert outcomes(name, loose)[1] == "invalid"  # on this scale any vector has the effect


# --- composition


def composed(kind: str, other: str, width: int = 80) -> Rows:
    """Bases whose family composes in a known way, with vectors of another behaviour that count as much or not at all.

    Around the base the target follows the same effect; around a random one it is linear, or as round.
    """

    def make(k: int) -> Any:
        vectors, effect = told(kind, k, width=width)
        foreign = rotation(width, k)[12:24]
        everything = energy(rotation(width, k), 1.0)
        response = everything if other == "as much" else effect

        def z(theta: Tensor) -> Tensor:
            line = theta @ foreign.sum(0) * (other == "nothing")
            return torch.stack([response(theta), line], dim=-1)

        families: dict[str, Any] = {"kl": vectors, "activation": vectors, "activation of displaced": foreign}
        base = planted_base(k, vectors[0], response, z=z, **families)
        partner = planted_base(k + 1, foreign[0], lambda theta: (theta @ foreign.mT).amax(-1), kl=foreign)
        return Partnered(**{**vars(base), "partner": partner})

    return measured(lambda base: module("effects_compose_like_a_quadratic_form").measure(base, base.partner), make, 6)


class Partnered(PlantedBase):
    """A planted base beside one of another behaviour."""

    def __init__(self, partner: PlantedBase, **values: Any) -> None:
        super().__init__(**{key: value for key, value in values.items() if key != "match"})
        object.__setattr__(self, "partner", partner)

    def displaced(self, count: int, stage: int) -> Tensor:
        """Vectors that another family repeats here."""
        return self.given["activation of displaced"].vectors[:count]


@pytest.mark.parametrize(
    ("kind", "other", "expected"),
    [
        ("linear", "nothing", [NO, YES, YES, YES, YES, NO]),
        ("quadratic", "nothing", [YES, YES, NO, YES, YES, YES]),
        ("quadratic", "as much", [YES, YES, YES, NO, NO, NO]),  # round in every direction: the same 1/p
        ("features", "nothing", [YES, NO, NO, NO, NO, NO]),
    ],
)
def test_composition_tells_the_stories_apart(kind: str, other: str, expected: list[str]) -> None:
    name = "effects_compose_like_a_quadratic_form"
    rows = composed(kind, other)
    assert outcomes(name, rows) == expected and set(failing(name, rows)) == {"invalid"}
    inverses = [row for row in rows if row.get("kind") == "composition" and row["group"] == "family"]
    wanted = {"linear": 1.0, "quadratic": 0.5, "features": 0.08}[kind]  # thresholds have a width
    assert all(row["inverse"] == pytest.approx(wanted, abs=0.06) for row in inverses)
    same = changed_rows(rows, {"kind": "mixture", "added": "own"}, log_ratio=1.0)
    assert YES not in outcomes(name, same)[3:5]
    assert module(name).figures(rows)


def test_a_random_base_that_composes_otherwise_is_told() -> None:
    name = "effects_compose_like_a_quadratic_form"

    def rows(control: float, wide: float = 0.01) -> Rows:
        values = {"family": 0.5, "activations": 0.5, "random base": control, "one direction": 1.0, "features": 0.0}

        def step(group: str) -> float:
            return wide if group == "random base" else 0.01

        return planted_rows(
            lambda k: [
                {
                    "kind": "composition",
                    "group": group,
                    "inverse": value + step(group) * (k % 3),
                    "low": 0.4,
                    "high": 0.6,
                }
                for group, value in values.items()
            ]
        )

    planted = ((0.52,), (0.9,), (0.25, 0.1))
    assert [outcomes(name, rows(*each))[2] for each in planted] == [YES, NO, "undecided"]
    alike = changed_rows(rows(0.5), {"group": "one direction"}, inverse=0.5)
    assert outcomes(name, alike)[0] == NO  # a control on the same side


def test_intervals_of_a_composition_hold_the_truth() -> None:
    """On quadratic effects of unequal strength 1/p is 1/2, and nearly all intervals over vectors say so."""
    lab, hits = module("effects_compose_like_a_quadratic_form"), 0
    for seed in range(200):
        strengths = torch.exp(0.5 * randn(12, seed=seed))
        vectors, effect = told("quadratic", seed)
        noisy = vectors + 0.15 * randn(12, 24, seed=900 + seed) / 24**0.5  # now they share some of their effect

        def curved(theta: Tensor, s: Tensor = strengths, v: Tensor = vectors) -> Tensor:
            return ((theta @ v.mT).square() * s).sum(-1)

        able = lab.alone(curved, noisy, 8.0)
        measured_one = lab.inverse(curved, able, lab.subsets_of(len(able), rng(seed)), rng(seed + 1))
        low, high = measured_one.interval
        hits += low <= 0.5 <= high
    assert hits >= 180


# --- means on harmless prompts


def test_means_on_harmless_prompts_are_compared_with_vectors_as_short() -> None:
    name = "plain_means_work_on_harmless_prompts"

    def rows(plain: float, short: float, base: float = 0.9, refused: float = 1.0) -> Rows:
        gains = {"base": base, "plain": plain, "short": short, "random": 0.0, "alone": 0.05, "root": 0.1}
        return planted_rows(
            lambda k: [
                {"kind": "mean", "of": of, "harmless": gain + 0.01 * k, "harmful": 0.0, "refused": refused}
                for of, gain in gains.items()
            ]
        )

    assert outcomes(name, rows(0.6, 0.05)) == [YES] * 3 and outcomes(name, rows(0.0, 0.0)) == [NO] * 3
    assert outcomes(name, rows(0.6, 0.6)) == [NO, YES, YES]  # short vectors do it too
    assert set(failing(name, rows(0.6, 0.05))) == {"invalid"}
    assert set(outcomes(name, rows(0.6, 0.05, base=0.0))) == {"invalid"}  # nothing shows the behaviour there
    assert set(outcomes(name, rows(0.6, 0.05, refused=0.2))) == {"invalid"}  # nothing is refused


def test_means_are_measured_beside_vectors_of_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "plain_means_work_on_harmless_prompts"
    monkeypatch.setattr(module(name), "plain", lambda base, texts: [SimpleNamespace(mode="refuse") for _ in texts])

    def make(k: int) -> Any:
        vectors, effect = told("linear", k, width=80)
        return planted_base(k, vectors.sum(0) / 12**0.5, effect, kl=vectors)

    rows = measured(lambda base: module(name).measure(base, ("harmless",)), make)
    shares = {row["of"]: row["harmless"] for row in rows if row.get("kind") == "mean" and row["base"] == 0}
    assert {of for of, share in shares.items() if share > 0.9} == {"base", "plain", "alone", "root"}


# --- ranks


def rank_rows(divergences: Callable[[int], Tensor], effects: Callable[[Tensor], Tensor]) -> Rows:
    examine = module("last_token_divergence_ranks_the_vectors").examine
    return planted_rows(lambda k: [{"kind": "ranks", **examine(divergences(k), effects(divergences(k)))}])


def test_ranks_of_one_position_agree_only_where_positions_do() -> None:
    name, answer = "last_token_divergence_ranks_the_vectors", 9
    size = torch.linspace(0.1, 2.0, 20, dtype=DTYPE)[:, None]

    def shared(k: int) -> Tensor:
        return size * (1 + 0.003 * torch.rand(20, answer, generator=rng(k), dtype=DTYPE))

    def first_alone(k: int) -> Tensor:
        return torch.cat([torch.rand(20, 1, generator=rng(90 + k), dtype=DTYPE), shared(k)], dim=1)

    def lost(each: Tensor) -> Tensor:
        return -each[:, 1:].mean(1)

    assert outcomes(name, rank_rows(shared, lost)) == [YES, YES]
    assert outcomes(name, rank_rows(first_alone, lost)) == [NO, NO]
    assert set(failing(name, rank_rows(shared, lost))) == {"invalid"}
    noise = rank_rows(lambda k: randn(20, answer, seed=k).exp(), lost)
    assert outcomes(name, noise) == ["invalid"] * 2  # halves of the answer do not agree on any order
    assert module(name).examine(torch.ones(20, answer), torch.ones(20))["rest"] is None
    by_chance = changed_rows(rank_rows(shared, lost), {"kind": "ranks"}, rest_shuffled=0.97, effect_shuffled=0.97)
    assert YES not in outcomes(name, by_chance)


def test_divergences_by_position_are_those_of_the_distributions() -> None:
    logits = {0.0: torch.zeros(1, 3, 4, dtype=DTYPE), 1.0: randn(1, 3, 4, seed=1)}
    goal = SimpleNamespace(
        z=lambda theta: torch.stack([logits[float(row[0])] for row in theta]),
        real=torch.tensor([1.0, 1.0, 0.0]),
        goal=logits[0.0].flatten(),
    )
    base: Any = SimpleNamespace(yard=SimpleNamespace(behaviour=goal))
    vectors = torch.tensor([[0.0], [1.0]])
    found = module("last_token_divergence_ranks_the_vectors").by_position(base, vectors)
    other = logits[1.0][0, :2].log_softmax(-1)
    expected = (0.25 * (torch.full_like(other, 0.25).log() - other)).sum(-1)
    assert found.shape == (2, 2) and torch.allclose(found[0], torch.zeros(2, dtype=DTYPE), atol=1e-12)
    assert torch.allclose(found[1], expected)


# --- the norm


def overlaps(vectors: Callable[[int], Tensor], at: Callable[[int], Tensor]) -> Rows:
    examine = module("the_norm_makes_vectors_overlap").examine

    def values(k: int) -> list[Mapping[str, Any]]:
        family, x = vectors(k), at(k)
        sets = {name: [randn(*family.shape, seed=s + 7 * k) for s in (1, 2)] for name in ("random", "covariance")}
        return [{"kind": "overlap", **examine(family, x, False, sets)}]

    return planted_rows(values)


def test_overlap_behind_the_norm_is_that_of_vectors_along_the_activation() -> None:
    name, width, n = "the_norm_makes_vectors_overlap", 48, 12

    def across(k: int) -> Tensor:
        direction, rest = equal_shares(n, width, k)[1], randn(3, width, seed=k)
        return 2.0 * unit(rest - (rest @ direction)[:, None] * direction)

    def shifted(k: int) -> Tensor:
        vectors, direction = equal_shares(n, width, k)
        return vectors + 2 * direction

    steps = overlaps(shifted, across)  # to the norm the vectors are steps in one direction
    assert outcomes(name, steps) == [YES, YES] and set(failing(name, steps)) == {"invalid"}
    # a shared part along the activation is taken away by the norm: what is left points apart
    along_it = overlaps(
        lambda k: 3.0 * equal_shares(n, width, k)[0], lambda k: 4.0 * equal_shares(n, width, k)[1][None]
    )
    assert outcomes(name, along_it) == [NO, NO]
    null = overlaps(lambda k: 2.0 * rotation(width, 60 + k)[:n], lambda k: randn(3, width, seed=k))
    assert YES not in outcomes(name, null)
    control_too = changed_rows(
        steps, {"kind": "overlap"}, random1=lambda row: row["family"], covariance1=lambda row: row["family"]
    )
    assert YES not in outcomes(name, control_too)
    row = module(name).normalised(torch.tensor([[3.0, 4.0, 0.0]]), True)
    assert float(row.mean()) == pytest.approx(0, abs=1e-6) and float(row.norm()) == pytest.approx(3**0.5)


# --- restarts


def test_restarts_recover_failed_searches_and_not_used_up_directions() -> None:
    name = "restarts_recover_failed_vectors"

    def rows(used_up: bool) -> Rows:
        def make(k: int) -> Any:
            z, inside = flat_energy(16, 5, seed=30 * k)
            lost = 2.0 * rotation(16, 30 * k)[5:8]  # searches that ended where there is no effect
            vectors = torch.cat([2.0 * inside[1:], lost]) if used_up else torch.cat([2.0 * inside[1:2], lost])
            effect = energy(inside, 2.0)
            base = planted_base(k, 2.0 * inside[0], effect, z=z, kl=family_of(vectors, effect))
            return PlantedBase(**{**vars(base), "place": replace(base.place, norm_cap=1.0, max_steps=8)})

        return measured(lambda base: module(name).measure(base, 1), make, 6)

    free, used = rows(False), rows(True)
    after = {row["effort"]: row["after"] for row in free if row.get("group") == "failed" and row["base"] == 0}
    assert after["longer"] > 0.9 and all(row["after"] < 0.5 for row in used if row.get("group") == "failed")
    assert outcomes(name, used) == [NO]
    by_effort = changed_rows(free, {"group": "failed", "effort": "ordinary"}, after=lambda row: 0.1 * row["base"])
    assert outcomes(name, spread(by_effort)) == [YES] and set(failing(name, spread(by_effort))) == {"invalid"}
    assert outcomes(name, spread(free)) != [YES]  # one more search does it as well: chance, not effort
    useless = changed_rows(spread(by_effort), {"group": "early"}, after=0.0)
    assert outcomes(name, useless) == ["invalid"]  # the search does not even find what is there


def spread(rows: Rows) -> Rows:
    """Every base with a second failed place, which is not always recovered: equal shares decide nothing."""
    more = [
        {**row, "place": 9, "after": 0.0 if row["base"] and row["behaviour"] == "code" else row["after"]}
        for row in rows
        if row.get("group") == "failed"
    ]
    return [*rows, *more]


def test_places_are_spread_over_those_that_failed() -> None:
    places = module("restarts_recover_failed_vectors").places
    effects = torch.tensor([1.0, 0.9, 0.1, 0.8, 0.2, 0.0, 0.1, 0.7])
    assert places(effects, 2) == ([2, 6], [1]) and places(torch.zeros(3), 1) == ([0], [])
    assert places(torch.zeros(0), 2) == ([], []) and outcomes("restarts_recover_failed_vectors", []) == ["invalid"]


def test_a_share_of_the_largest_feature_is_no_quadratic_form() -> None:
    lab = module("effects_compose_like_a_quadratic_form")
    vectors = told("largest", 3)[0]
    assert bool((lab.needed(largest(vectors), vectors[:4].mean(0)[None], 4) == 8.0).all())  # no scale works
