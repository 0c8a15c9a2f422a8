"""Instruments that fail make a verdict invalid; what misled once is planted here; power is what it says."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from planted import counts, generators
from toys import randn, rotation

from mi_ortho.runs.files import plain
from mi_ortho.stats import (
    SIGNED_SCALE,
    UNIT_SCALE,
    Gate,
    Measured,
    Verdict,
    above_floor,
    against_control,
    below_ceiling,
    by_unit,
    chosen_by_nothing,
    decide,
    detectable_count_ratio,
    detectable_difference,
    detectable_mean,
    detectable_rate,
    enough,
    has_width,
    in_words,
    judge,
    matched_displacement,
    mean,
    outcome,
    paired_count_ratio,
    rate,
    reachable,
    reliable,
    specific,
    subsampled,
)

FAILED = {
    "an effect that random vectors have": specific([0.7, 0.82, 0.81, 0.79], 1.0),
    "no base effect": specific([0.1], 0.0),
    "a ceiling": below_ceiling([24, 24, 24, 20], 24),
    "a floor": above_floor([0, 1, 0, 2], 1),
    "nothing measured": above_floor([], 1),
    "a bent ruler": reliable(0.3),
    "a ruler not measured": reliable(None),
    "a target nobody reaches": reachable(0.02, limit=0.5),
    "two values": enough(2),
    "equal values": has_width(mean([1.0, 1.0])),
    "other displacements": matched_displacement(123, 90),
    "vectors chosen by the outcome": chosen_by_nothing([True] * 12),
}
PASSED = {
    "a specific effect": specific([0.1, 0.2, 0.0], 1.0),
    "room above": below_ceiling([24, 20, 12], 24),
    "room below": above_floor([4, 6, 0], 1),
    "a ruler": reliable(0.9),
    "a target": reachable(0.8, limit=0.5),
    "values": enough(3),
    "a width": has_width(mean([1.0, 2.0, 3.0])),
    "an exact number": has_width(Measured(1.0, (1.0, 1.0), "exact number")),
    "equal displacements": matched_displacement(90, 95),
    "all vectors": chosen_by_nothing([True, False, True]),
}


@pytest.mark.parametrize("name", FAILED)
def test_a_failed_gate_makes_the_clearest_verdict_invalid_and_is_named(name: str) -> None:
    gate, clear = FAILED[name], rate(100, 100)
    assert decide(clear, 0.5, gates=[gate]).failed == gate.text
    verdict = judge("", "", "", clear, 0.5, 0.0, decide(clear, 0.5), gates=[gate, PASSED["a ruler"]])
    assert (verdict.outcome, verdict.supported, verdict.failed) == ("invalid", None, gate.text)
    values, controls = [0.9, 0.95, 0.92, 0.9], [0.1, 0.12, 0.1, 0.11]
    against = against_control("", "", "", values, controls, threshold=0.5, gates=[gate])
    assert against.outcome == "invalid" and gate.name in against.failed
    assert against_control("", "", "", values, controls, threshold=0.5, gates=list(PASSED.values())).supported


def test_gates_that_are_passed_change_nothing() -> None:
    assert not [name for name, gate in PASSED.items() if not gate.passed]
    verdict = judge("", "", "", rate(9, 10), 0.5, None, decide(rate(9, 10), 0.5), gates=list(PASSED.values()))
    assert verdict.outcome == "supported" and len(verdict.gates) == len(PASSED)


def test_several_failed_gates_are_all_named() -> None:
    verdict = Verdict("", "", "", 1.0, None, 0.5, None, True, gates=(FAILED["a floor"], FAILED["a bent ruler"]))
    assert verdict.failed == (
        "share of the values at the floor: 0.75, must be at most 0.5; "
        "reliability of the ruler: 0.3, must be at least 0.7"
    )


def test_a_stored_verdict_reads_as_before() -> None:
    verdict = against_control(
        "c",
        "p",
        "s",
        [0.9, 0.8, 0.85],
        [0.1, 0.2, 0.1],
        gates=[Gate("g", 0.1, 0.2, True)],
        separates="one from another",
    )
    stored = plain(verdict)
    assert isinstance(stored, dict) and outcome(stored) == verdict.outcome == stored["outcome"]
    assert stored["gates"] == [{"name": "g", "value": 0.1, "limit": 0.2, "passed": True, "side": "at most"}]
    assert (stored["unit"], stored["n"], stored["separates"]) == ("sample", 3, "one from another")
    assert Verdict("c", "p", "s", 1.0, None, 0.5, None, True).outcome == "supported", "an old call"


# --- what misled


def test_two_cosines_of_one_support_nothing() -> None:
    for values in ([1.0, 1.0], [1.0, 0.99]):
        measured = by_unit(values, [{"base": 0}, {"base": 1}], scale=SIGNED_SCALE)
        assert decide(measured, 0.5).outcome == "undecided"


def test_correlations_stay_correlations() -> None:
    for random in generators(50):
        values = np.tanh(random.normal(0, 1.5, 3)).tolist()
        low, high = by_unit(values, [{"base": k} for k in range(3)], scale=SIGNED_SCALE).interval or (-2, 2)
        assert -1 <= low <= high <= 1


def test_splits_of_the_same_prompts_are_one_sample() -> None:
    rows = [{"model": "a", "layers": 4, "behaviour": "code", "base": 0}] * 20
    measured = by_unit(np.random.default_rng(0).normal(0.9, 0.01, 20).tolist(), rows, scale=UNIT_SCALE)
    assert decide(measured, 0.5).outcome == "undecided" and measured.n == 1


def scales(rows: torch.Tensor, forms: torch.Tensor, generator: torch.Generator, sizes: Sequence[int]) -> torch.Tensor:
    """log s*(n) of 12 means of n vectors each, of equal effect under a quadratic form."""
    orders = torch.rand(len(sizes), 12, len(rows), generator=generator).argsort(-1)
    means = [forms[rows[order[:, :n]]].mean(1) for order, n in zip(orders, sizes)]
    return torch.stack([-0.5 * each.square().sum(-1).log() for each in means])


def inverse(logs: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """1/p from the slope of the median log s* on log n through the origin; a last dimension of subsets."""
    x = torch.tensor(sizes, dtype=logs.dtype).log()
    return 1 - (logs.quantile(0.5, dim=-1) * x).sum(-1) / x.square().sum()


@pytest.mark.parametrize(("count", "sizes"), [(10, (2, 4)), pytest.param(24, (2, 4, 8), marks=pytest.mark.slow)])
def test_the_exponent_over_overlapping_subsets_covers_that_of_a_quadratic_form(
    count: int, sizes: tuple[int, ...]
) -> None:
    """The vectors are resampled and the subsets formed anew; resampling only the subsets covers too seldom."""
    covered, naive, runs = 0, 0, 200
    for seed in range(runs):
        roots = (0.35 * randn(40, seed=seed)).exp()
        forms = rotation(40, seed=seed)[:count] * roots
        forms = forms / forms.norm(dim=-1, keepdim=True)  # each vector alone has the effect 1
        generator = torch.Generator().manual_seed(seed)

        def statistic(rows: torch.Tensor, forms: torch.Tensor = forms, own: torch.Generator = generator) -> float:
            return float(inverse(scales(rows, forms, own, sizes), sizes))

        low, high = subsampled(statistic, count, generator=generator, draws=24).interval or (1.0, 0.0)
        covered += low <= 0.5 <= high
        logs = scales(torch.arange(count), forms, generator, sizes)
        again = logs.gather(1, torch.randint(12, (len(sizes), 200 * 12), generator=generator))
        ends = inverse(again.reshape(len(sizes), 200, 12).transpose(0, 1), sizes).quantile(
            torch.tensor([0.025, 0.975], dtype=logs.dtype)
        )
        naive += bool(ends[0] <= 0.5 <= ends[1])
    assert covered / runs >= 0.9 and naive / runs < 0.88, (covered, naive)


def test_subsamples_of_a_mean_cover_it_and_say_what_they_are() -> None:
    covered = 0
    for seed in range(200):
        values = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        measured = subsampled(lambda rows, x=values: float(x[rows].mean()), 8, generator=generator, draws=30)
        low, high = measured.interval or (1.0, 0.0)
        covered += low <= 0 <= high
    assert covered / 200 >= 0.9 and measured.kind == "delete-4 jackknife over 8 vectors" and measured.n == 8
    infinite = subsampled(lambda rows: math.inf, 8, generator=torch.Generator())
    assert decide(infinite, 0.5).outcome == "undecided"
    with pytest.raises(ValueError, match="got 3 vectors"):
        subsampled(lambda rows: 1.0, 3, generator=torch.Generator())


# --- what could have been seen


@pytest.mark.parametrize("n", [4, 8])
def test_detectable_effects_are_seen_in_four_of_five_samples(n: int) -> None:
    effect = detectable_mean(1.0, n)
    seen = np.mean([decide(mean(r.normal(effect, 1, n).tolist()), 0.0).supported is True for r in generators()])
    assert 0.72 <= seen <= 0.92
    assert all(detectable_mean(1.0, k + 1) < detectable_mean(1.0, k) for k in range(2, 60))
    assert detectable_mean(2.0, n) == pytest.approx(2 * effect) and detectable_mean(1.0, 1) == math.inf


def test_the_detectable_rate_is_exact() -> None:
    share = detectable_rate(20, 0.5)
    hits = np.random.default_rng(0).binomial(20, share, 4000)
    decided = {k: decide(rate(k, 20), 0.5).supported is True for k in range(21)}
    assert np.mean([decided[int(k)] for k in hits]) == pytest.approx(0.8, abs=0.03)
    assert detectable_rate(5, 0.5) == math.inf, "five of five have an interval from 0.48"
    with pytest.raises(ValueError, match="got 0 trials"):
        detectable_rate(0, 0.5)


def test_the_detectable_ratio_of_counts_is_seen_in_four_of_five_samples() -> None:
    ratio, seen = detectable_count_ratio(0.6, 9, typical=10, limit=60), 0
    for random in generators():
        sides = (10 * each * random.lognormal(0, 0.6 / 2**0.5, 9) for each in (ratio, 1.0))
        values, controls = (counts(side, 60) for side in sides)
        seen += decide(paired_count_ratio(values, controls), 1.0001).supported is True
    assert 0.7 <= seen / 200 <= 0.9
    assert detectable_count_ratio(0.6, 9, typical=10, limit=12) == math.inf, "too near the end of the search"
    with pytest.raises(ValueError, match="got spread=-1"):
        detectable_count_ratio(-1, 9, typical=10, limit=60)


def test_the_detectable_difference_is_over_the_highest_unit() -> None:
    values, controls = [1.0, 1.1, 2.0, 2.1, 4.0, 4.1], [0.0] * 6
    bases = [{"base": k // 2} for k in range(6)]
    assert detectable_difference(values, controls, units=bases) > detectable_difference(values, controls)
    assert detectable_difference([1.0], [0.0]) == math.inf
    with pytest.raises(ValueError, match="got a spread of -1"):
        detectable_mean(-1, 5)


def test_sentences_say_the_interval() -> None:
    assert in_words(Measured(None, None, "none")) == "not measured"
    assert in_words(Measured(2.0, None, "none", 1)) == "2.00, spread not known, n = 1"
    assert in_words(Measured(None, (24.0, math.inf), "", 9, "base", 9)) == "at least 24.00, n = 9, 9 of them censored"
    assert in_words(Measured(0.1, (-math.inf, 0.5), "")) == "0.10, at most 0.50"
