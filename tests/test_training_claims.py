"""Factors, paired prompts, frequencies and trainings: right on planted answers, silent where an instrument fails."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from planted_bases import changed_rows, differing, outcomes
from toys import DTYPE, randn, rng, rotation

from experiments.lab import dialled
from experiments.lab.bases import at_model
from experiments.lab.needs import check
from mi_ortho import FunctionMap, LinearMap

YES, NO = "supported", "not supported"
NEITHER = {"invalid", "undecided"}
REPEAT = "outputs_repeat_more_than_inputs"
PAIRED = "differential_objective_finds_what_paired_prompts_share"
FREQUENT, EARLY = "frequent_behaviours_have_more_vectors", "early_checkpoints_have_more_vectors"
Row = Mapping[str, Any]


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


def with_all(rows: Sequence[Row], **values: Any) -> list[dict[str, Any]]:
    return changed_rows(rows, {}, **values)


# --- factors whose effects are shared or separate


def factor_rows(shared: bool) -> list[Row]:
    """Six inputs with one effect or six; every other direction keeps its own, half as strong."""
    rows = []
    for prompt in range(8):
        basis = rotation(48, prompt).float()
        effects = basis.clone()
        effects[:6] = 2 * (basis[:1] if shared else basis[:6])
        z = LinearMap(effects.mT @ basis, torch.zeros(48))
        rows.append(differing({"prompt": prompt, **module(REPEAT).examine(z, 2 * basis[:6], rng(prompt))}, prompt))
    return rows


def test_shared_effects_are_told_from_separate_ones() -> None:
    shared, separate = factor_rows(True), factor_rows(False)
    assert outcomes(REPEAT, shared) == [YES, YES] and YES not in outcomes(REPEAT, separate)
    further = with_all(separate, random=lambda row: row["random"] - 0.1)
    assert outcomes(REPEAT, further)[0] == NO  # they repeat less than random ones, as was seen before
    assert all(row["factors"] < 0.2 and abs(row["far_moved"] / row["factors_moved"] - 1) < 0.06 for row in shared)
    squashed = with_all(shared, random=lambda row: 0.7 + 0.001 * row["prompt"], far=lambda row: row["factors"] + 0.001)
    assert set(outcomes(REPEAT, squashed)) == {"undecided"}  # the map does that to any family
    unsearched = with_all(shared, factors_moved=lambda row: row["random_moved"])
    assert set(outcomes(REPEAT, unsearched)) == set(outcomes(REPEAT, shared[:4])) == {"invalid"}
    assert outcomes(REPEAT, with_all(shared, far_moved=lambda row: 2 * row["factors_moved"])) == [YES, "invalid"]


def test_random_vectors_are_no_factors() -> None:
    for seed in range(5):
        maps = [LinearMap(randn(24, 24, seed=100 * seed + k).float(), torch.zeros(24)) for k in range(8)]
        rows = [
            {"prompt": k, **module(REPEAT).examine(z, randn(6, 24, seed=9 * seed + k).float(), rng(k))}
            for k, z in enumerate(maps)
        ]
        assert YES not in outcomes(REPEAT, rows)


# --- pairs that differ by features, or by nothing that they share


def pair_rows(one_sided: bool, groups: int = 8) -> list[Row]:
    """Of every pair the first side has features that the second lacks; or the sides differ in each pair another way."""
    claim, width = module(PAIRED), 16
    config = claim.Config(radius=3.0, variants=4)

    def pair(special: torch.Tensor, seed: int) -> Any:
        common = [3.0 * randn(width, width, seed=seed + (not one_sided) * k) / width**0.5 for k in (0, 1)]

        def side(strength: float, linear: torch.Tensor) -> FunctionMap:
            def z(theta: torch.Tensor) -> torch.Tensor:
                above = strength * torch.nn.functional.softplus(8 * (theta.to(DTYPE) @ special.mT - 2.0))
                return torch.cat([theta.to(DTYPE) @ linear, above], -1).to(theta.dtype)

            return FunctionMap(z, width)

        return side(float(one_sided), common[0]), side(0.0, common[1])

    rows = []
    for group in range(groups):
        pairs = [pair(rotation(width, group)[:4], 100 * group + 10 * k) for k in range(4)]
        numbers = claim.examine(pairs[:2], pairs[2:], claim.search(pairs[:2], config, rng(group)))
        turned = {"differential_first": 0.5 if one_sided else 0.3, "differential_second": 0.2}
        turned |= {"plain_first": 0.3, "plain_second": 0.25}
        if not one_sided:
            turned["differential_second"] = 0.3
        rows.append(differing({"prompt": group, **numbers, **turned}, group))
    return rows


def test_one_sided_vectors_are_told_from_others() -> None:
    rows = pair_rows(True)
    assert outcomes(PAIRED, rows) == [YES] * 4
    assert YES not in outcomes(PAIRED, pair_rows(False))
    assert set(outcomes(PAIRED, rows[:4])) == {"invalid"}
    unsearched = with_all(rows, strong=lambda row: 1.0 + 0.01 * row["prompt"])
    assert set(outcomes(PAIRED, unsearched)) == {"invalid"}
    longer = with_all(rows, plain_moved=lambda row: 2 * row["differential_moved"])
    assert outcomes(PAIRED, longer) == [YES, "invalid", YES, YES]
    silent = {f"{name}_{side}": 0.0 for name in ("differential", "plain") for side in ("first", "second")}
    assert outcomes(PAIRED, with_all(rows, **silent))[3] == "invalid"
    overfitted = with_all(rows, **{f"differential{end}": lambda row: row["plain"] for end in ("", "_far")})
    assert YES not in outcomes(PAIRED, overfitted)[:2]
    inside_too = with_all(rows, inside=lambda row: row["differential"], inside_far=lambda row: row["differential_far"])
    assert YES not in outcomes(PAIRED, inside_too)[:2]


# --- organisms


SETTINGS = ((0.2525, 0.2525), (0.05, 0.455), (0.455, 0.05))
Counted = Callable[[float, int], int]


def organism_rows(
    own: Counted, random: Counted = lambda frequency, k: 5 + k % 3, **values: Any
) -> list[dict[str, Any]]:
    """Rows of five organisms of each setting on two prompts; counts of frequency and a running number."""
    rows = []
    for k, (seed, setting, prompt, which) in enumerate(product(range(5), SETTINGS, (0, 1), (0, 1))):
        labels = {"organism": f"{setting[0]} {seed}", "trained": seed, "step": 1800, "prompt": prompt}
        shown = {
            "learnt": 0.9,
            "works": 1.0,
            "specific": 0.05,
            "censored": False,
            "room": 62,
            "moved": 3.0 + (k * 7 % 5) / 10,
        }
        for kind, count in (("own", own), ("far", own), ("random", random)):
            number = count(setting[which], k)
            moved = {"moved": 3.0} if kind == "far" else {}
            counts = {"half": number, "most": 2 * number, "kind": kind, "frequency": setting[which]}
            rows.append({**labels, "behaviour": ("code", "alien")[which], **shown, **moved, **counts, **values})
    return rows


def test_frequency_is_seen_where_it_acts() -> None:
    acts = organism_rows(lambda frequency, k: 4 + int(40 * frequency) + k % 2)
    assert outcomes(FREQUENT, acts) == [YES] * 4
    assert outcomes(FREQUENT, organism_rows(lambda frequency, k: 24 - int(40 * frequency) + k % 2)) == [NO] * 4
    for seed in range(3):
        drawn = torch.randint(5, 12, (60,), generator=rng(seed)).tolist()
        assert YES not in outcomes(FREQUENT, organism_rows(lambda frequency, k, drawn=drawn: drawn[k]))


def test_organisms_whose_instruments_fail_say_nothing() -> None:
    def count(frequency: float, k: int) -> int:
        return 4 + int(40 * frequency) + k % 2

    failures: list[dict[str, Any]] = [{"learnt": 0.1}, {"learnt": None}, {"works": 0.0}, {"specific": 0.6}]
    for failed in failures:
        assert set(outcomes(FREQUENT, organism_rows(count, **failed))) == {"invalid"}
    floor = outcomes(FREQUENT, organism_rows(lambda frequency, k: int(frequency > 0.4 and k % 3 == 0)))
    assert set(floor) <= NEITHER and floor[0] == "invalid"
    ceiling = outcomes(FREQUENT, organism_rows(count, half=62, most=62))
    assert set(ceiling) == {"invalid"}
    cut_off = organism_rows(count, censored=True)
    assert set(outcomes(FREQUENT, cut_off)) <= NEITHER  # at least so many says nothing of either side
    same = outcomes(FREQUENT, organism_rows(count, random=count))
    assert set(same[:2]) <= {NO, "undecided"}  # any direction's count goes with the frequency
    unmatched = [
        {**row, "moved": 9.0} if row["frequency"] > 0.3 and row["kind"] == "far" else row
        for row in organism_rows(count)
    ]
    assert outcomes(FREQUENT, unmatched)[2:] == [YES, "invalid"]
    assert set(outcomes(FREQUENT, [row for row in organism_rows(count) if row["trained"] == 0])) == {"invalid"}


def training_rows(
    count: Callable[[int, int], int], random: Counted = lambda step, k: 6 + k * 5 % 7, **values: Any
) -> Any:
    """Rows of five trainings at eight steps; counts of the step's number and a running number."""
    rows = []
    for k, (seed, number, prompt, which) in enumerate(product(range(5), range(8), (0, 1), (0, 1))):
        labels = {"organism": f"{seed} {number}", "trained": seed, "step": 28 * 2**number, "prompt": prompt}
        learnt = {
            "learnt": 0.9 * (number == 7),
            "works": float(number == 7),
            "specific": 0.05,
            "censored": False,
            "room": 62,
        }
        for kind, each in (("own", count), ("random", random)):
            some = each(number, k)
            counts = {"half": some, "most": some + 3, "kind": kind, "moved": 1.0 + (k * 3 % 7)}
            rows.append({**labels, "behaviour": ("code", "alien")[which], **learnt, **counts, **values})
    return rows


def test_training_is_seen_where_it_acts() -> None:
    falls = training_rows(lambda step, k: 20 - 2 * step + k * 5 % 3)
    assert outcomes(EARLY, falls) == [YES, YES]
    assert outcomes(EARLY, training_rows(lambda step, k: 4 + 2 * step + k * 5 % 3)) == [NO, NO]
    for seed in range(3):
        drawn = torch.randint(5, 12, (160,), generator=rng(seed)).tolist()
        assert YES not in outcomes(EARLY, training_rows(lambda step, k, drawn=drawn: drawn[k]))
    failures: list[dict[str, Any]] = [{"learnt": 0.1}, {"works": 0.0}, {"specific": 0.6}, {"censored": True}]
    for failed in [*failures, {"half": 1, "most": 62}]:
        assert set(outcomes(EARLY, training_rows(lambda step, k: 20 - 2 * step + k * 5 % 3, **failed))) <= NEITHER
    as_well = training_rows(lambda step, k: 20 - 2 * step + k * 5 % 3, lambda step, k: int(20 - 2 * step + k * 5 % 2))
    assert YES not in outcomes(EARLY, as_well)  # whatever the direction
    assert set(outcomes(EARLY, [row for row in falls if row["trained"] == 0])) == {"invalid"}


def test_displacement_is_taken_out_of_the_correlation() -> None:
    partial = dialled.partial_correlation
    assert partial([(k, k, 1.0) for k in range(6)]) == pytest.approx(1.0)
    assert partial([(k, k, k) for k in range(6)]) is None and partial([(1, 1, 1)] * 3) is None
    assert partial([(k, 5, k) for k in range(6)]) == 0.0  # what never changes has no trend; its gate says where it is


def test_organisms_are_no_other_model() -> None:
    config, nobody = module(FREQUENT).Config(), type("Nobody", (), {"title": "another model"})
    elsewhere = at_model(config, "smollm2")
    assert elsewhere == replace(config, model="smollm2")  # its place is not that model's
    with pytest.raises(ValueError, match="got another model; expected no model"):
        check(module(FREQUENT).NEEDS, elsewhere, nobody)  # pyright: ignore[reportArgumentType]
    check(module(EARLY).NEEDS, config, nobody)  # pyright: ignore[reportArgumentType]


def test_the_rarest_setting_is_left_out_and_every_training_keeps_its_steps() -> None:
    config = module(FREQUENT).Config()
    every, kept = dialled.trained(config), dialled.balanced(config)
    assert len(every) == config.seeds * (8 + 2) and len(kept) == config.seeds * 8
    assert min(min(each.shares) for each in every) == dialled.RAREST and len({each.name for each in every}) == len(
        every
    )
