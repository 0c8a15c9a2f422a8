"""Predictions as files, and the one place where readings are held against them."""

import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.lab.claims import load, names
from experiments.lab.predictions import FOLDER, Prediction, Predictions, committed, digest_of, read_predictions
from experiments.lab.readings import Reading, Total, drawn, judged
from experiments.lab.results import answer, as_verdict, correct, index, page, read_entries
from mi_ortho import Verdict
from mi_ortho.runs import to_json
from mi_ortho.stats import Count, Measured

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
WHOLE = """
[size]
question = "Is it large?"
predicts = "at least 0.5"
statistic = "share"
control = "nothing"
separates = "large from small"
unit = "base"
side = "at least"
threshold = 0.5
"""


def asked(**changes: Any) -> Predictions:
    """One prediction, a share of at least .5 and .2 above its control, over at least six bases."""
    values: dict[str, Any] = {
        **{name: name for name in ("question", "predicts", "statistic", "control", "separates")},
        **{"unit": "base", "side": "at least", "threshold": 0.5, "beyond": 0.2, "minimum": 6, "scale": (0.0, 1.0)},
    }
    return Predictions("toy", {"size": Prediction("size", **{**values, **changes})}, "0" * 12)


def read(values: Sequence[Any], controls: Sequence[Any], gates: dict[str, float] | None = None) -> list[Reading]:
    """One reading a base, bases of two behaviours."""
    return [
        Reading("size", value, control, {"behaviour": "code" if k % 2 else "poem", "base": k // 2}, gates or {})
        for k, (value, control) in enumerate(zip(values, controls, strict=True))
    ]


LARGE, SMALL = [0.9, 0.8, 0.85, 0.9, 0.95, 0.8, 0.9, 0.85], [0.1, 0.2, 0.1, 0.15, 0.2, 0.1, 0.05, 0.1]


# --- files


def test_every_file_is_of_a_claim_and_every_ported_claim_has_its_file() -> None:
    ported = {name for name in names() if load(name).predictions}
    assert {path.stem for path in FOLDER.glob("*.toml")} == ported and ported
    for name in ported:
        for one in read_predictions(name).each.values():
            assert one.question.endswith("?") and not one.statistic.endswith((",", "."))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('unit = "base"\n', "without unit"),
        ("threshold = 0.5\n", "without threshold"),
        (('"at least"', '"above"'), "side 'above'"),
        (('"base"', '"vector"'), "unit 'vector'"),
        (("threshold = 0.5", "threshold = 0.5\nmargins = 1"), "with margins"),
        (("threshold = 0.5", "threshold = 0.5\ngates = { lucky = 1.0 }"), "gates lucky"),
        (("threshold = 0.5", 'threshold = -1.0\nkind = "count"'), "threshold -1"),
        (("[size]", "[size"), "no TOML"),
        (("[size]", 'colour = "red"\n[size]'), "with colour"),
    ],
)
def test_a_file_that_lacks_something_is_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    text = WHOLE.replace(*change) if isinstance(change, tuple) else WHOLE.replace(change, "")
    (tmp_path / "toy.toml").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_predictions("toy", tmp_path)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="write and commit them before its run"):
        read_predictions("none", tmp_path)


def test_the_commit_is_named_only_where_the_file_is_as_it_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(WHOLE)
    assert committed(path) == ("", "")

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    assert committed(path) == ("", "")
    git("add", "toy.toml")
    git("commit", "-qm", "predicted")
    commit, when = committed(path)
    assert len(commit) == 12 and when.startswith("20")
    path.write_text(WHOLE + "# changed\n")
    assert committed(path) == ("", "")


# --- outcomes


def outcome(predictions: Predictions, found: Sequence[Reading | Total]) -> str:
    [verdict] = judged(predictions, found)
    return verdict.outcome


def test_what_is_true_is_supported_and_its_opposite_is_not() -> None:
    assert outcome(asked(), read(LARGE, SMALL)) == "supported"
    assert outcome(asked(), read(SMALL, SMALL)) == "not supported"
    assert outcome(asked(side="at most"), read(SMALL, LARGE)) == "supported"
    assert outcome(asked(side="at most"), read(LARGE, SMALL)) == "not supported"
    [verdict] = judged(asked(), read(LARGE, SMALL))
    assert verdict.n == 8 and verdict.unit == "base" and "8 bases" in verdict.kind and verdict.separates == "separates"
    assert verdict.difference == pytest.approx(0.744, abs=0.01) and verdict.detectable and verdict.p_value


@pytest.mark.parametrize(
    ("values", "controls", "gates"),
    [
        (LARGE, LARGE, {}),  # a control on the same side
        (LARGE, [0.75] * 8, {}),  # a control that has nearly all of it
        (
            LARGE,
            [0.55, 0.53, 0.56, 0.54, 0.52, 0.55, 0.53, 0.54],
            {},
        ),  # far below, and on the same side of the threshold
        ([1.0, 0.0] * 4, SMALL, {}),  # nothing decided
        (LARGE[:2], SMALL[:2], {}),  # too few
        (LARGE, SMALL, {"specific": 0.78}),  # random vectors have it too
        (LARGE, SMALL, {"reliable": 0.3}),  # a ruler that does not agree with itself
        (LARGE, SMALL, {"specific": math.nan}),  # a check that came to nothing
        (LARGE, [None] * 8, {}),  # a control that was not measured
        (SMALL, LARGE, {"specific": 0.78}),  # swapped, and unspecific: not even refuted
    ],
)
def test_planted_failures_are_invalid_or_undecided(values: list[Any], controls: list[Any], gates: Any) -> None:
    predictions = asked(gates={name: {"specific": 0.2, "reliable": 0.7}[name] for name in gates})
    assert outcome(predictions, read(values, controls, gates)) in ("invalid", "undecided")


def test_a_check_that_nobody_measured_is_not_passed() -> None:
    [verdict] = judged(asked(gates={"specific": 0.2}), read(LARGE, SMALL))
    assert verdict.outcome == "invalid" and "not measured" in verdict.failed
    assert outcome(asked(gates={"specific": 0.2}), read(LARGE, SMALL, {"specific": 0.1})) == "supported"


def test_a_value_on_the_wrong_side_is_refuted_wherever_its_control_lies() -> None:
    rules = asked(side="at most", threshold=0.75, beyond=0.1)
    for controls in (LARGE, SMALL, [1.0] * 8, [0.8, 0.95, 0.9, 0.85, 0.8, 0.9, 0.95, 0.8]):
        (verdict,) = judged(rules, read(LARGE, controls))
        assert verdict.outcome == "not supported" and verdict.p_value is not None and verdict.p_value < 0.05
    spread = [0.2, 0.9, 0.4, 0.95, 0.5, 0.99, 0.6, 0.8]  # neither the value nor the difference decides
    (verdict,) = judged(rules, read(spread, [0.8, 0.3, 0.9, 0.5, 0.99, 0.6, 0.95, 0.7]))
    assert verdict.outcome == "undecided"
    assert judged(asked(), read(LARGE, SMALL))[0].p_value == pytest.approx(1e-6, rel=10)  # of the weaker of two tests


def test_totals_and_counts_have_p_values_that_are_corrected() -> None:
    value, control = (Measured(mean, (mean - 0.1, mean + 0.1), "b", 20, "base") for mean in (0.9, 0.1))
    (verdict,) = judged(asked(), [Total("size", value, control)])
    assert verdict.outcome == "supported" and verdict.p_value is not None and verdict.p_value < 1e-6
    found = counts([(40.0, False)] * 4 + [(60.0, False)] * 4, [(10.0, False)] * 8)
    (verdict,) = judged(asked(kind="count", threshold=2.0, scale=(0.0, math.inf), beyond=0.0), found)
    assert verdict.p_value is not None and (verdict.p_value < 0.05) == (verdict.outcome == "supported")


def test_a_base_whose_own_check_fails_is_left_out_alone_and_said() -> None:
    good, bad = read(LARGE, SMALL, {"specific": 0.1}), read([0.0], [0.9], {"specific": 56.0})
    rules = asked(gates={"specific": 0.2})
    with_bad = [*good, replace(bad[0], units={"behaviour": "code", "base": 99})]
    (alone,), (verdict,) = judged(rules, good), judged(rules, with_bad)
    assert (verdict.outcome, verdict.value, verdict.n) == ("supported", alone.value, alone.n) and alone.n == 8
    assert "1 of 9 left out" in verdict.gates[0].text and verdict.gates[0].value == pytest.approx(0.1)
    assert "left out" not in alone.gates[0].text and len(drawn(rules, with_bad)[0].rows) == 2
    few = [replace(one, gates={"specific": 56.0}) if k < 3 else one for k, one in enumerate(good)]
    (verdict,) = judged(rules, few)
    assert verdict.outcome == "invalid" and not verdict.gates[0].passed and "random vectors" in str(verdict.failed)
    assert verdict.value == alone.value  # what was measured is shown all the same
    two = [replace(one, gates={"specific": 56.0 * (k < 2), "works": float(k > 3)}) for k, one in enumerate(good)]
    (verdict,) = judged(asked(gates={"specific": 0.2, "works": 0.5}, minimum=4), [*two, *two[:0]])
    assert verdict.outcome != "invalid" and verdict.n == 4  # both checks at once
    (verdict,) = judged(asked(gates={"specific": 0.2, "works": 0.5}, minimum=5), two)
    assert verdict.outcome == "invalid"


def test_ceilings_and_floors_are_invalid() -> None:
    assert outcome(asked(gates={"ceiling": 1.0}), read([1.0] * 6 + [0.9] * 2, SMALL)) == "invalid"
    assert outcome(asked(gates={"floor": 0.0}), read([0.0] * 6 + [0.9] * 2, SMALL)) == "invalid"


def test_prompts_under_one_base_are_no_independent_values() -> None:
    many = [
        Reading("size", LARGE[k] - 0.4 * (k > 2), 0.1, {"base": k, "prompt": prompt})
        for k in range(4)
        for prompt in range(20)
    ]
    [verdict] = judged(asked(minimum=3), many)
    assert verdict.n == 4 and verdict.outcome == "undecided"


def counts(values: Sequence[tuple[float, bool]], controls: Sequence[tuple[float, bool]]) -> list[Reading]:
    return read([Count(*value) for value in values], [Count(*value) for value in controls])


def test_counts_that_a_search_cut_off_decide_nothing() -> None:
    twice = asked(kind="count", threshold=2.0, scale=(0.0, math.inf))
    full, half, few = [(24, True)] * 8, [(22, False)] * 8, [(k % 3 + 4, False) for k in range(8)]
    assert outcome(twice, counts(full, full)) == "undecided"
    assert outcome(twice, counts(half, full)) == "not supported"  # at most 22 of at least 24
    assert outcome(twice, counts(full, few)) == "supported"
    assert outcome(twice, counts(few, [(value + k % 2, False) for k, (value, _) in enumerate(few)])) == "not supported"
    assert outcome(twice, counts(full[:3], few[:3])) == "invalid"
    [verdict] = judged(twice, counts(full, few))
    assert verdict.censored == 8 and verdict.control == pytest.approx(5, abs=1)


def test_absence_is_shown_and_not_assumed() -> None:
    near = asked(side="within", threshold=0.1)
    equal = [value + 0.01 * (-1) ** k for k, value in enumerate(SMALL)]
    assert outcome(near, read(equal, SMALL)) == "supported"
    assert outcome(near, read(LARGE, SMALL)) == "not supported"
    assert outcome(near, read([0.0, 0.4] * 4, SMALL)) == "undecided"  # not large, and not shown to be small


def test_a_total_needs_a_control_with_a_spread() -> None:
    value = Measured(0.9, (0.8, 0.95), "bootstrap", 20)
    for control, wanted in (
        (Measured(0.1, (0.05, 0.2), "bootstrap", 20), "supported"),
        (Measured(0.1, None, "one number", 1), "undecided"),
        (Measured(0.85, (0.75, 0.9), "bootstrap", 20), "not supported"),  # not by .2
    ):
        assert outcome(asked(), [Total("size", value, control)]) == wanted


def test_readings_of_no_prediction_are_refused_and_none_is_invalid() -> None:
    with pytest.raises(ValueError, match="got readings of other; expected size"):
        judged(asked(), [Reading("other", 1.0, 0.0, {"base": 0})])
    [verdict] = judged(asked(), [])
    assert verdict.outcome == "invalid" and verdict.value is None
    assert not drawn(asked(), []) and drawn(asked(), read(LARGE, SMALL))[0].rows[0].value == pytest.approx(
        0.869, abs=0.01
    )


# --- pages


def entry(model: str, verdicts: Sequence[Verdict], name: str = "toy", confirmatory: bool = False) -> dict[str, Any]:
    stored = json.loads(to_json({"verdicts": list(verdicts)}))["verdicts"]
    return {
        **{"experiment": name, "claim": "Is it so?", "model": model, "weights": "0" * 12, "verdicts": stored},
        **{"confirmatory": [confirmatory] * len(verdicts), "parts": {"Source": "here."}, "measured": "2026-11-29"},
        **{"prediction": {"digest": "d" * 12, "commit": "c" * 12, "time": "2026-11-28"}, "settings": {"n": 3}},
        **{"command": "python -m experiments toy", "cost": "1 s", "figures": []},
    }


def test_a_page_says_what_the_run_says_with_its_numbers() -> None:
    [verdict] = judged(asked(), read(LARGE, SMALL))
    [stored] = entry("m", [verdict])["verdicts"]
    assert as_verdict(stored) == verdict
    text = page(correct([entry("m", [verdict]), entry("other", judged(asked(), read(SMALL, SMALL)))]))
    assert "**m: supported.** statistic: 0.87 [" in text and "n = 8 bases; control 0.125" in text
    assert "**other: not supported.**" in text and f"Predictions {'d' * 12} of commit {'c' * 12}" in text
    assert answer(verdict, "m") in text
    table = index(correct([entry("m", [verdict]), entry("other", judged(asked(), read(SMALL, SMALL)), "second")]))
    assert "| [question](toy.md) | **supported** 0.869" in table and "| not asked |" in table


def test_a_model_measured_before_a_prediction_was_added_is_not_asked_it() -> None:
    [verdict] = judged(asked(), read(LARGE, SMALL))
    table = index(correct([entry("before", [verdict]), entry("now", [verdict, replace(verdict, claim="added")])]))
    assert "| [added](toy.md) | not asked | **supported**" in table


def test_many_tests_of_one_model_are_corrected_and_another_models_are_not() -> None:
    [verdict] = judged(asked(), read(LARGE, SMALL))
    weak = [entry("m", [verdict], f"weak{k}") for k in range(20)]
    for each in weak:
        each["verdicts"][0]["p_value"] = 0.04
    alone, *together = correct([{**weak[0], "model": "alone"}, *weak[:3], entry("m", [verdict], "strong")])
    assert alone["verdicts"][0].outcome == "supported" and all(e["verdicts"][0].p_adjusted for e in together)
    holm = correct([{**each, "confirmatory": [True]} for each in weak])
    assert {each["verdicts"][0].outcome for each in holm} == {"undecided"}
    assert "after correction (Holm, 20 tests)" in holm[0]["verdicts"][0].why


def test_no_result_is_older_than_its_prediction_or_of_another_one() -> None:
    for each in read_entries(RESULTS):
        prediction = each["prediction"]
        if not prediction["digest"]:
            continue
        path = FOLDER / f"{each['experiment']}.toml"
        assert prediction["digest"] == digest_of(path.read_bytes()), (
            f"{path.name} changed since {each['model']} was run"
        )
        assert prediction["commit"], f"{path.name} was not committed when {each['model']} was run"
        assert prediction["time"] <= each["measured"], f"{each['experiment']} is older than its prediction"
