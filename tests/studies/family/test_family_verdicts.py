"""Verdicts: right on planted families, silent or negative on their nulls."""

import pytest

from mi_ortho.runs.rows import whole
from mi_ortho.stats import Verdict
from mi_ortho.studies.family.verdicts import (
    END,
    beyond_linear,
    counts,
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


def present(verdict: Verdict | None) -> Verdict:
    assert verdict is not None
    return verdict


BASE = [{"kind": "base", "index": 0, "norm": 5.0, "mode": "code", "transfer": 1.0}]


def test_a_planted_family_is_supported_and_its_null_is_not():
    planted = vectors([True] * 36 + [False] * 4) + controls("isotropic", [False] * 39 + [True])
    null = vectors([True, False] * 100) + controls("isotropic", [False, True] * 100)
    assert present(exists(planted, "kl")).supported is True
    assert present(exists(null, "kl")).supported is False


def test_undecided_when_the_interval_straddles_the_threshold():
    rows = vectors([True] * 3 + [False] * 7) + controls("isotropic", [False] * 10)
    verdict = present(exists(rows, "kl"))
    assert verdict.supported is None and verdict.interval is not None and verdict.threshold is not None
    assert verdict.interval[0] < verdict.threshold < verdict.interval[1]


def test_scaling_counts_only_vectors_that_were_longer_and_worked():
    worked = vectors([True] * 20, norm=10.0)
    assert present(norm_matters(BASE + worked + controls("scaled_to_base", [False] * 20), "kl")).value == 1.0
    assert present(norm_matters(BASE + worked + controls("scaled_to_base", [True] * 20), "kl")).supported is False
    short = vectors([True] * 20, norm=5.5)
    assert norm_matters(BASE + short + controls("scaled_to_base", [False] * 20), "kl") is None


def test_transfer_is_relative_to_the_base_and_needs_a_base_that_transfers():
    rows = vectors([True] * 20, transfer=0.4)
    half = [{**BASE[0], "transfer": 0.5}]
    assert present(transfers(half + rows, "kl")).value == pytest.approx(0.8)
    assert transfers([{**BASE[0], "transfer": 0.0}, *rows], "kl") is None


def test_the_control_of_transfer_meets_the_same_condition():
    rows = BASE + vectors([True] * 20, transfer=0.9)
    control = [
        {**row, "transfer": 0.6 if row["keeps"] else 0.0} for row in controls("isotropic", [True] * 5 + [False] * 15)
    ]
    assert present(transfers(rows + control, "kl")).control == pytest.approx(0.6)
    assert present(transfers(rows + controls("isotropic", [False] * 20), "kl")).control is None


def test_means_pattern_of_the_post_and_of_a_linear_map():
    def means(plain, scaled):
        return [
            {"kind": "mean", "match": "kl", "n": n, "scale": scale, "keeps": keep}
            for n in (2, 3, 5, 10, 20)
            for scale, keep in (("plain", plain), ("sqrt_n", scaled), ("sum", False))
        ]

    both = [present(means_fail(means(plain=not scaled, scaled=scaled), "kl")) for scaled in (True, False)]
    assert [verdict.value for verdict in both] == [1.0, -1.0]
    assert [verdict.supported for verdict in both] == [None, False], "four means do not show a difference of one half"


def test_the_end_is_where_most_of_a_window_fails_not_the_first_failure():
    assert family_end([True, False] + [True] * 30) is None
    assert family_end([True] * 20 + [False] * 20) == 16
    assert family_end([False] * 10) == 0
    assert family_end([True] * 3) is None


def test_a_family_with_vectors_that_work_to_the_last_has_not_ended():
    """14 of 32 kept, few at first and hits to the last one: no index from which nothing holds."""
    kept = [True, True] + [False] * 9 + [True, False] * 10 + [True]
    assert sum(kept) == 13 and family_end(kept) is None
    assert family_end([False] * 10 + [True] * 10 + [False] * 20) == 16


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


PLAIN = [
    {"kind": "unsteered", "prompt": k, "prompt_text": f"prompt {k}", "mode": "refuse", "text": ""} for k in range(3)
]


def headline_of(rows, cap=None):
    return str(summarise(PLAIN + BASE + rows, {"kl": 1e-8, "activation": 1e-8}, "some model", cap)["headline"])


def searches(statuses):
    return [
        {"kind": "search", "match": "kl", "attempt": k, "index": k, "kept": True, "status": status}
        for k, status in enumerate(statuses)
    ]


def test_the_headline_speaks_of_the_first_prompt():
    headline = headline_of(vectors([True] * 8 + [False] * 2) + controls("isotropic", [True] + [False] * 9))
    assert headline.startswith("8 of 10 mutually orthogonal vectors")
    assert "“prompt 0”" in headline and "Of random vectors of the same norms, 1 do. " in headline


def test_the_headline_tells_the_graded_measure_where_there_is_one():
    def graded(rows: list[dict], values: list[float]) -> list[dict]:
        return [{**row, "posterior": value} for row, value in zip(rows, values, strict=True)]

    family, random = vectors([True, False]), controls("isotropic", [False, False])
    headline = headline_of(graded(family, [0.99, 0.564]) + graded(random, [0.004, 0.1]))
    assert "The posterior of code lies between 0.56 and 0.99 with all of them, between 0.004 and 0.1 with" in headline
    assert "posterior" not in headline_of(graded(family, [0.99, 0.56]) + random)


def test_the_headline_tells_the_norm_it_took_and_the_cap_that_binds():
    """66 of 120 at up to 1.6 times the norm of the base, 4 at its own; 103 at the cap, 59 not converged."""
    kept = [True] * 66 + [False] * 54
    rows = [{**row, "norm": 8.0 if row["index"] < 103 else 6.0} for row in vectors(kept)]
    rows += controls("scaled_to_base", [True] * 4 + [False] * 116, norm=5.0)
    rows += controls("isotropic", [False] * 116 + [True] * 4)
    rows += searches(["MAX_STEPS"] * 59 + ["CONVERGED"] * 61)
    headline = headline_of(rows, cap=1.6)
    assert headline.startswith("66 of 120 mutually orthogonal vectors")
    for part in (
        "of up to 1.6 × the base's norm make",
        "(4 at the base's own norm)",
        "Of random vectors of the same norms, 4 do. ",
        "103 lie at the norm cap (1.6 × the base's) and 59 searches stopped at the limit of steps. ",
        f"The family ends at index 62: {END}.",
    ):
        assert part in headline, part
    stalled = headline_of([*rows[:-61], *searches(["STALLED"] * 61)], cap=1.6)
    assert ", 59 searches stopped at the limit of steps and 61 stalled before the gradient vanished. " in stalled
    assert "norm cap" not in headline_of(rows) and "limit of steps" not in headline_of(rows[:-120])


@pytest.mark.parametrize(
    ("family", "random", "said"),
    [
        ([True] * 40, [True] * 39 + [False], "39 do, which is as many"),  # ceiling, and the control is there too
        ([False] * 40, [False] * 40, "0 of 40 mutually orthogonal vectors"),  # floor
        ([False] * 40, [False] * 40, "0 do, which is as many"),
        ([True, False] * 20, [False, True] * 20, "20 do, so it may be chance"),  # the control shows the same
        ([True] * 2, [False] * 2, "0 do. "),
        ([True] * 40, [False] * 40, "The family's end was not reached."),
        ([False] * 40, [False] * 40, "The family ends at index 0"),
    ],
)
def test_the_headline_of_planted_runs_says_what_the_control_says(family, random, said):
    assert said in headline_of(vectors(family) + controls("isotropic", random))


def test_a_base_without_a_known_behaviour_is_kept_by_nobody():
    rows = [{**row, "keeps": None} for row in vectors([True] * 10) + controls("isotropic", [True] * 10)]
    headline = headline_of(rows)
    assert "is not defined" in headline and "10 mutually orthogonal vectors" in headline and "10 of" not in headline
    assert exists(PLAIN + BASE + rows, "kl") is None


def test_a_handful_of_vectors_decides_nothing():
    two = present(exists(vectors([True] * 2) + controls("isotropic", [False] * 2), "kl"))
    assert two.outcome == "undecided" and two.value == 1.0 and two.interval is not None and two.interval[0] < 0.2


def test_fewer_vectors_than_a_bound_are_no_evidence_and_barely_more_are_chance():
    def verdict(count: int, efficiency: float) -> Verdict:
        null = [{"kind": "linear_null", "index": 0, "efficiency": efficiency, "loss": 0.1}]
        good = [{**row, "match": "activation", "norm": 5.0} for row in vectors([True] * count)]
        return present(beyond_linear(BASE + good + null))

    assert verdict(17, 0.1).outcome == "undecided" and "nulls" in verdict(17, 0.1).why
    assert verdict(40, 1.0).outcome == "supported"


def test_the_headline_is_of_the_larger_family_and_names_the_count_of_the_other():
    activation = [{**row, "match": "activation"} for row in vectors([True] * 6 + [False] * 6)]
    headline = headline_of([*activation, *vectors([True] * 4)])
    assert headline.startswith("6 of 12 mutually") and "Matched on next-token distributions, 4 of 4 do. " in headline
