"""Verdicts of the claims on ablation and on layers: planted truths are supported, their opposites are not, and failed
instruments are invalid."""

import importlib
from typing import Any

import pytest
import torch
from planted_rows import Rows, answer_rows, outcomes
from toys import randn, rng, rotation

from experiments.lab import once, over_prompts, overlapping, rank_correlation
from mi_ortho.geometry import bent_copy, flatness, gaussian_copy
from mi_ortho.stats import Measured
from mi_ortho.studies.geometry.layers import likeness_rows

ABLATION = "ablation_works_away_from_its_layer"
LAYER = "layer_statistics_choose_the_layer"
VARIANCE = "variance_grows_along_depth"
SHARED = "layers_share_directions"
SPACE = "layers_are_one_space"
FLAT = "activations_are_euclidean"


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


# --- what claims share


def test_resampling_over_prompts_counts_prompts_and_not_rows() -> None:
    values = {f"p{k}": float(k % 5) for k in range(50)}
    found = over_prompts([*values, *values], lambda labels, _: sum(values[one] for one in labels) / len(labels))
    assert found.n == 50 and found.value == 2.0 and found.interval is not None
    assert 1.4 < found.interval[0] < 1.8 and 2.2 < found.interval[1] < 2.6
    assert over_prompts(list(values), lambda labels, draw: None if draw % 2 else 1.0).interval is None
    assert over_prompts([], lambda labels, _: 1.0).value is None


def test_overlapping_samples_narrow_nothing() -> None:
    parts = [Measured(float(k), (k - 1.0, k + 1.0), "b", 20, "prompt") for k in range(4)]
    assert overlapping(parts).interval == (0.5, 2.5) and overlapping(parts).n == 20
    assert overlapping([*parts, Measured(1.0, None, "none", 1)]).interval is None and overlapping([]).value is None


def test_rank_correlation_and_its_random_order() -> None:
    numbers = list(map(float, range(20)))
    assert rank_correlation(numbers, [x**3 for x in numbers]) == pytest.approx(1.0)
    orders = [rank_correlation(numbers, numbers, order=k) or 0.0 for k in range(100)]
    assert abs(sum(orders) / 100) < 0.1
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


# --- ablation


def ablation_rows(works: bool, turns: bool = True) -> Rows:
    rows: Rows = []
    for subset in (*module(ABLATION).SUBSETS, "read at 1", "read at 2"):
        for direction in ("refusal", "random"):
            for k in range(40):
                answered = direction == "refusal" and ((subset == "all" and turns) or works)
                row = {"kind": "answer", "seed": 0, "subset": subset, "direction": direction, "prompt": f"p{k}"}
                rows.append({**row, "plain": False, "answered": answered})
    for read in range(1, 8):
        noise = randn(8, seed=read).tolist()
        lost = [0.1 * k + 0.01 * noise[k] if works else noise[k] for k in range(8)]
        rows.append({"kind": "read", "seed": 0, "read": read, "lost": lost, "cosines": [1 - 0.1 * k for k in range(8)]})
    return rows


def test_ablation_away_from_its_layer() -> None:
    keys = ("others", "stride", "elsewhere")
    for works, expected in ((True, "supported"), (False, "not supported")):
        assert [outcomes(ABLATION, ablation_rows(works))[key] for key in keys] == [expected] * 3
    assert set(outcomes(ABLATION, ablation_rows(False, turns=False)).values()) == {"invalid"}


def test_subsets_leave_out_what_their_names_say() -> None:
    found = module(ABLATION).subsets(3, 9, 0)
    assert found["own"] == [3] and 3 not in found["others"] and len(found["others"]) == 8
    assert found["stride 2"] == [3, 5, 7] and len(found["random half"]) == 3
    assert "before" not in module(ABLATION).subsets(0, 4, 0)


# --- statistics of layers


def layer_rows(sign: float, first: float, noise: float = 0.1, **shares: float) -> Rows:
    """Places whose statistic goes with (1) or against (-1) what the model loses there."""
    ways = {"best": 0.95, "first by mean_variance": first, "random 0": 0.05, "random 1": 0.05, **shares}
    rows = answer_rows(ways)
    truth = randn(30, seed=5)
    for seed in range(3):
        for name in module(LAYER).NOTES:
            rows.append({"kind": "statistic", "seed": seed, "name": name, "values": (sign * truth).tolist()})
        for k in range(12):
            lost = (truth + noise * randn(30, seed=50 * seed + k)).tolist()
            rows.append({"kind": "places", "seed": seed, "prompt": f"v{seed} {k}", "lost": lost})
    return rows


def test_layer_statistics() -> None:
    assert set(outcomes(LAYER, layer_rows(1.0, 0.9)).values()) == {"supported"}
    assert set(outcomes(LAYER, layer_rows(-1.0, 0.1)).values()) == {"not supported"}
    noisy = outcomes(LAYER, layer_rows(1.0, 0.9, noise=30.0))  # halves of the prompts do not agree
    assert noisy["cosine"] == "invalid" and noisy["first"] == "supported"
    assert set(outcomes(LAYER, layer_rows(1.0, 0.9, best=0.1)).values()) == {"invalid"}
    easy = layer_rows(1.0, 0.9, **{"random 0": 0.65, "random 1": 0.65})  # any place serves
    assert outcomes(LAYER, easy)["first"] in ("undecided", "not supported")


# --- layers of a network


def depth_rows(network: str, r_squared: float, preference: float, gap: float, share: float, slope: float) -> Rows:
    def spread(**values: float) -> dict[str, float]:
        (name, value), near = next(iter(values.items())), 0.01
        low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
        return {name: value, low: value - near, high: value + near}

    rows: Rows = []
    for group in ("all", "harmful", "harmless"):
        named = {"network": network, "group": group, "stream": "pre", "statistic": "mean_variance", "samples": 64}
        fit = spread(r_squared=r_squared) | spread(slope=0.3)
        rows += [
            {"kind": "fit", "form": "exponential", **named, **fit},
            {"kind": "law", **named, **spread(preference=preference)},
        ]
    one = {"network": network, "group": "all", "samples": 64}
    rows.append({"kind": "mean_gap", **one, **spread(value=gap), **spread(share=share)})
    rows.append({"kind": "updates", **one, **spread(slope=slope)})
    rows.append({"kind": "update", **one, "depth": 0, "norm": 1.0})
    return rows


def test_variance_along_depth() -> None:
    low = depth_rows("untrained", 0.5, -6.0, 0.0, 0.2, 0.2)
    truth = [*depth_rows("model", 0.95, 5.0, 0.2, 0.8, 0.0), *low]
    assert set(outcomes(VARIANCE, truth).values()) == {"supported"}
    opposite = outcomes(VARIANCE, [*depth_rows("model", 0.85, -5.0, 0.0, 0.2, 0.3), *low])
    assert {opposite[key] for key in ("law", "gap", "attention", "moves")} == {"not supported"}
    assert outcomes(VARIANCE, [*depth_rows("model", 0.4, 5.0, 0.2, 0.8, 0.0), *low])["rise"] == "not supported"
    bent = outcomes(VARIANCE, [*depth_rows("model", 0.4, 5.0, 0.2, 0.8, 0.0), *low])
    assert bent["law"] == "invalid"  # neither law fits
    high = depth_rows("untrained", 0.82, 2.5, 0.1, 0.6, 0.0)
    same = outcomes(VARIANCE, [*depth_rows("model", 0.95, 5.0, 0.2, 0.8, 0.0), *high])
    assert {same[key] for key in ("rise", "law", "gap", "attention")} == {"undecided"}
    assert set(outcomes(VARIANCE, low).values()) == {"invalid"}  # nothing of the model itself


def pair_rows(network: str, times: float, alignment: float) -> Rows:
    noise = randn(8, seed=len(network)).tolist()
    rows: Rows = [
        {
            "kind": "overlap_pair",
            "network": network,
            "source": i,
            "target": j,
            "kinds": "a a",
            "times": times + 0.02 * noise[i],
        }
        for i in range(8)
        for j in range(i, 8)
    ]
    rows += [
        {"kind": "update", "network": network, "depth": k, "alignment": alignment + 0.01 * noise[k] if k < 7 else None}
        for k in range(8)
    ]
    return rows


def test_shared_directions_count_layers() -> None:
    control = pair_rows("shuffled", 1.0, 0.0)
    assert set(outcomes(SHARED, [*pair_rows("model", 3.0, 0.5), *control]).values()) == {"supported"}
    assert set(outcomes(SHARED, [*pair_rows("model", 1.1, 0.02), *control]).values()) == {"not supported"}
    swapped = [*pair_rows("model", 3.0, 0.5), *pair_rows("shuffled", 2.0, 0.3)]
    assert set(outcomes(SHARED, swapped).values()) == {"undecided"}
    few = [row for row in [*pair_rows("model", 3.0, 0.5), *control] if row.get("source", row.get("depth", 0)) < 3]
    assert set(outcomes(SHARED, few).values()) == {"invalid"}


def space_rows(scaling: float, learned: float, turned: float) -> Rows:
    noise = randn(8, seed=3).tolist()
    maps = {"rotation": 0.5 * learned, "linear": learned, "turned": turned}
    return [
        {
            "kind": "carried",
            "network": "model",
            "source": i,
            "target": j,
            "split": s,
            "scaling": scaling + 0.01 * noise[i],
            **maps,
        }
        for i in range(8)
        for j in range(8)
        for s in range(2)
        if i != j
    ]


def test_one_space() -> None:
    assert outcomes(SPACE, space_rows(0.8, 0.85, 0.0)) == {"number": "supported"}
    assert outcomes(SPACE, space_rows(0.3, 0.85, 0.0)) == {"number": "not supported"}
    assert outcomes(SPACE, space_rows(0.1, 0.1, 0.0)) == {"number": "invalid"}  # no map predicts anything
    assert outcomes(SPACE, space_rows(1.2, 0.85, 0.7)) == {"number": "undecided"}  # any number does


def flat_cloud_rows(measured: float, bent: float) -> Rows:
    noise = (0.005 * randn(8, 8, seed=4)).tolist()
    rows: Rows = []
    for depth in range(8):
        for copy in range(6):
            ratios = {"gaussian": 1.5 + noise[depth][copy], "grouped": 1.5, "bent": bent}
            ratios |= {"measured": measured + noise[depth][7]} if copy == 0 else {}
            rows += [
                {
                    "kind": "flat",
                    "network": "model",
                    "depth": depth,
                    "cloud": c,
                    "copy": copy,
                    "ratio": r,
                    "defect": 0.0,
                }
                for c, r in ratios.items()
            ]
    return rows


def test_flat_space_is_shown_and_not_assumed() -> None:
    assert outcomes(FLAT, flat_cloud_rows(1.5, 1.9)) == {"flat": "supported"}
    assert outcomes(FLAT, flat_cloud_rows(1.8, 1.9)) == {"flat": "not supported"}
    assert outcomes(FLAT, flat_cloud_rows(1.575, 1.9)) == {"flat": "undecided"}
    assert outcomes(FLAT, flat_cloud_rows(1.5, 1.5)) == {"flat": "invalid"}  # a bent cloud looks the same


def test_a_bent_cloud_has_detours_that_a_flat_one_has_not() -> None:
    x = randn(200, 3) @ torch.diag(torch.tensor([1.0, 0.1, 0.1]).double())
    flat, bent = (
        flatness(copy(x, rng()), neighbours=8, triangles=10, generator=rng()).ratio
        for copy in (gaussian_copy, bent_copy)
    )
    assert bent > 1.05 * flat


def test_rows_recorded_twice_count_once() -> None:
    points = randn(40, 1, 6).expand(-1, 3, -1) @ rotation(6)
    rows = [{**row, "network": "model", "group": "all"} for row in likeness_rows(points, 2, rng())]
    assert once([*rows, *rows[:5], {"kind": "stage"}]) == rows
    assert list(module(SPACE).readings([*rows, *rows[:5]])) == list(module(SPACE).readings(rows))
    assert all(set(outcomes(name, []).values()) <= {"invalid", "undecided"} for name in (VARIANCE, SHARED, SPACE, FLAT))
