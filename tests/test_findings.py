"""Verdicts: right on planted families, silent or negative on their nulls."""

import pytest

from mi_ortho.runs.directory import Verdict
from mi_ortho.runs.rows import whole
from mi_ortho.studies.family.verdicts import (
    counts,
    decide,
    exists,
    family_end,
    means_fail,
    norm_matters,
    summarise,
    transfers,
)


def vectors(kept, *, norm=10.0, transfer=1.0, loss=0.3):
    return [
        {"kind": "vector", "match": "kl", "index": k, "keeps": keep, "norm": norm, "transfer": transfer, "loss": loss}
        for k, keep in enumerate(kept)
    ]


def controls(name, kept, *, norm=10.0):
    return [
        {"kind": "control", "control": name, "match": "kl", "index": k, "keeps": keep, "norm": norm, "transfer": 0.0}
        for k, keep in enumerate(kept)
    ]


def given(verdict: Verdict | None) -> Verdict:
    assert verdict is not None
    return verdict


BASE = [{"kind": "base", "index": 0, "norm": 5.0, "mode": "code", "transfer": 1.0}]


def test_a_planted_family_is_supported_and_its_null_is_not():
    planted = vectors([True] * 36 + [False] * 4) + controls("isotropic", [False] * 39 + [True])
    null = vectors([True, False] * 100) + controls("isotropic", [False, True] * 100)
    assert given(exists(planted, "kl")).supported is True
    assert given(exists(null, "kl")).supported is False


def test_undecided_when_the_interval_straddles_the_threshold():
    rows = vectors([True] * 3 + [False] * 7) + controls("isotropic", [False] * 10)
    verdict = given(exists(rows, "kl"))
    assert verdict.supported is None and verdict.interval is not None and verdict.threshold is not None
    assert verdict.interval[0] < verdict.threshold < verdict.interval[1]


def test_scaling_counts_only_vectors_that_were_longer_and_worked():
    worked = vectors([True] * 20, norm=10.0)
    assert given(norm_matters(BASE + worked + controls("scaled_to_base", [False] * 20), "kl")).value == 1.0
    assert given(norm_matters(BASE + worked + controls("scaled_to_base", [True] * 20), "kl")).supported is False
    short = vectors([True] * 20, norm=5.5)
    assert norm_matters(BASE + short + controls("scaled_to_base", [False] * 20), "kl") is None


def test_transfer_is_relative_to_the_base_and_needs_a_base_that_transfers():
    rows = vectors([True] * 20, transfer=0.4)
    half = [{**BASE[0], "transfer": 0.5}]
    assert given(transfers(half + rows, "kl")).value == pytest.approx(0.8)
    assert transfers([{**BASE[0], "transfer": 0.0}, *rows], "kl") is None


def test_the_control_of_transfer_meets_the_same_condition():
    rows = BASE + vectors([True] * 20, transfer=0.9)
    control = [
        {**row, "transfer": 0.6 if row["keeps"] else 0.0} for row in controls("isotropic", [True] * 5 + [False] * 15)
    ]
    assert given(transfers(rows + control, "kl")).control == pytest.approx(0.6)
    assert given(transfers(rows + controls("isotropic", [False] * 20), "kl")).control is None


def test_means_pattern_of_the_post_and_of_a_linear_map():
    def means(plain, scaled):
        return [
            {"kind": "mean", "match": "kl", "n": n, "scale": scale, "keeps": keep}
            for n in (2, 3, 5, 10, 20)
            for scale, keep in (("plain", plain), ("sqrt_n", scaled), ("sum", False))
        ]

    assert given(means_fail(means(plain=False, scaled=True), "kl")).supported is True
    assert given(means_fail(means(plain=True, scaled=False), "kl")).supported is False


@pytest.mark.parametrize(
    ("interval", "expected"), [((0.3, 0.5), True), ((0.0, 0.1), False), ((0.1, 0.3), None), (None, None)]
)
def test_decide(interval, expected):
    assert decide(0.2, interval, 0.2) is expected


def test_the_end_is_where_most_of_a_window_fails_not_the_first_failure():
    assert family_end([True, False] + [True] * 30) is None
    assert family_end([True] * 20 + [False] * 20) == 16
    assert family_end([False] * 10) == 0
    assert family_end([True] * 3) is None


def test_counts_by_quarter_and_rows_recorded_twice_count_once():
    rows = vectors([True] * 10 + [False] * 10)
    total = counts(whole(rows + rows[:5]) + controls("isotropic", [True] + [False] * 19), "kl")
    assert total["found"] == 20 and total["kept"] == 10
    assert total["quarters"] == [5, 5, 0, 0]
    assert total["first_failure"] == 10
    assert total["controls"] == {"isotropic": 1}


def test_a_run_without_vectors_still_has_a_headline():
    summary = summarise([], {}, "some model")
    assert "No orthogonal family" in str(summary["headline"])
    assert summary["verdicts"] == []


def test_the_headline_speaks_of_the_first_prompt():
    plain = [
        {"kind": "unsteered", "prompt": k, "prompt_text": f"prompt {k}", "mode": "refuse", "text": ""} for k in range(3)
    ]
    rows = plain + BASE + vectors([True] * 8 + [False] * 2) + controls("isotropic", [True] + [False] * 9)
    headline = str(summarise(rows, {"kl": 1e-8}, "some model")["headline"])
    assert headline.startswith("8 of 10 mutually orthogonal vectors")
    assert "“prompt 0”" in headline and "random vectors of the same norms, 1 do" in headline
