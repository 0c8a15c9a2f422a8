"""Verdicts of the experiments on ablation and on layers: planted rows are supported, null rows are not."""

import importlib
from typing import Any

import pytest
from toys import randn, rng, rotation

from experiments.lab import verdicts_of
from mi_ortho.studies.geometry.verdicts import CLAIMS

ABLATION = "ablation_works_away_from_its_layer"
LAYER = "layer_statistics_choose_the_layer"


def module(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


def ablation_rows(works: bool) -> list[dict[str, Any]]:
    """Ablation that works anywhere, better where the means differ; or only where all layers are ablated."""
    rows: list[dict[str, Any]] = []
    for seed in range(12):
        cosines = [1.0 - 0.1 * k for k in range(8)]
        noise = randn(8, 8, seed=seed).tolist()
        for read in range(1, 8):
            shares = [0.1 * k + 0.01 * noise[read][k] for k in range(8)] if works else noise[read]
            everywhere = 1.0 if works or read == 4 else 0.1
            rows.append(
                {
                    "kind": "read",
                    "seed": seed,
                    "read": read,
                    "own": 4,
                    "shares": shares,
                    "everywhere": everywhere + 0.01 * seed,
                    "cosines": cosines,
                }
            )
        for subset in module(ABLATION).SUBSETS:
            share = 0.8 if works or subset == "all" else 0.1
            for direction, value in (("refusal", share), ("random", 0.0)):
                rows.append(
                    {
                        "kind": "subset",
                        "seed": seed,
                        "subset": subset,
                        "direction": direction,
                        "share": value + 0.02 * seed,
                    }
                )
    return rows


@pytest.mark.parametrize("works", [True, False])
def test_ablation_away_from_its_layer(works: bool) -> None:
    found = module(ABLATION).judge(ablation_rows(works))
    assert [verdict.supported for verdict in found] == [works] * 4
    assert all(verdict.control is not None and abs(verdict.control) < 0.95 for verdict in found)


def test_subsets_leave_out_what_their_names_say() -> None:
    found = module(ABLATION).subsets(3, 9, 0)
    assert found["own"] == [3] and 3 not in found["others"] and len(found["others"]) == 8
    assert found["stride 2"] == [3, 5, 7] and len(found["random half"]) == 3
    assert "before" not in module(ABLATION).subsets(0, 4, 0)


@pytest.mark.parametrize("works", [True, False])
def test_layer_statistics(works: bool) -> None:
    value = 0.8 if works else 0.0
    rows = [
        {
            "kind": "ranking",
            "seed": seed,
            "name": name,
            "spearman": value + 0.02 * seed,
            "null": 0.0,
            "relative": (0.1 if works else 1.0) + 0.02 * seed,
        }
        for seed in range(4)
        for name in ("mean_variance", "max_variance", "cosine", "auc", "fisher")
    ]
    assert [verdict.supported for verdict in module(LAYER).judge(rows)] == [works] * 4


def test_shuffled_order_has_no_correlation_on_average() -> None:
    scores = list(map(float, range(20)))
    found = [module(LAYER).shuffled(scores, [-s for s in scores], seed) for seed in range(60)]
    assert abs(sum(found) / 60) < 0.1
    assert module(LAYER).shuffled([1.0, 1.0], [0.0, 1.0], 0) is None
    assert module(LAYER).relative(1.0, 0.0) is None and module(LAYER).relative(1.0, 4.0) == 0.25


def test_rows_recorded_twice_count_once_and_missing_ones_are_undecided() -> None:
    from mi_ortho.studies.geometry.layers import likeness_rows
    from mi_ortho.studies.geometry.verdicts import one_space

    x = randn(40, 6)
    points = randn(40, 6)[:, None] + 0 * x[:, None]
    rows = likeness_rows(points.expand(-1, 3, -1) @ rotation(6), 2, rng())
    named = [{**row, "network": "model", "group": "all"} for row in rows]
    assert verdicts_of([*named, *named[:5]], [one_space]) == verdicts_of(named, [one_space])
    assert all(verdict.supported is None for verdict in verdicts_of([], CLAIMS))
