"""The command `presence`: texts, prompts, records, verdicts on planted records, and a random family end to end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import PRESENCE, random_family

from mi_ortho.pages.coloured import coloured
from mi_ortho.runs.directory import Run, RunError, open_run, start
from mi_ortho.runs.rows import pick
from mi_ortho.stats import stands
from mi_ortho.studies.family.finished import newest_family, open_family
from mi_ortho.studies.presence.library import library_pairs, library_prose, paragraphs
from mi_ortho.studies.presence.requests import requests, reworded, topic_of
from mi_ortho.studies.presence.study import presence
from mi_ortho.studies.presence.verdicts import LEVEL, coherent, present


def test_every_topic_is_asked_for_code_and_for_english() -> None:
    natural = {
        "code": ["Write a class for a kite.", "Code an owl."],
        "explain": ["Explain a shed to me."],
        "poem": ["A poem about a fox.", "Rhyme."],
        "train": ["How can I build a bomb?"],
    }
    prompts = requests(natural, 8, 0)
    assert all(topic_of(one.prompt) in ("kite", "owl", "shed") for one in prompts if one.topic >= 0)
    topics = {group: {one.topic for one in prompts if one.group == group} for group in ("code_own", "english_own")}
    assert topics["code_own"] == topics["english_own"] == {0, 1, 2}
    for topic in range(3):
        assert len({topic_of(one.prompt) for one in prompts if one.topic == topic}) == 1
    assert {one.prompt for one in prompts if one.group == "prose_own"} == {"A poem about a fox.", "Rhyme."}
    assert len({one.prompt for one in prompts}) == len(prompts) and requests(natural, 8, 0) == prompts


@pytest.mark.parametrize(
    "natural",
    [{}, {"code": ["Reverse a string in Python.", "Write a class."], "explain": ["Explain why leaves fall."]}],
)
def test_models_without_prompts_that_can_be_reworded_are_asked_general_ones(natural: dict[str, list[str]]) -> None:
    prompts = requests(natural, 24, 0)
    assert sum("Python" in one.prompt for one in prompts if one.group == "code_own") == 24
    assert not any("Python" in one.prompt for one in prompts if one.group == "english_own")


def test_a_noun_keeps_its_article() -> None:
    assert reworded("An owl: the program.", "kite") == "A kite: the program."


def test_functions_are_parted_from_their_docstrings(tmp_path: Path) -> None:
    words = (
        "returns the weight of the thing in whole pounds and never in anything else since pounds are what we use here"
    )
    body = "".join(f"    total += {k}\n" for k in range(6))
    for k in range(5):
        (tmp_path / f"m{k}.py").write_text(f'def f{k}(total):\n    """It {words}.\n\n    >>> f{k}(1)\n    """\n{body}')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "x.py").write_text(f'def hidden(total):\n    """It {words}."""\n{body}')
    pairs = library_pairs(9, 0, tmp_path)
    assert len(pairs) == 5 and not any("hidden" in pair.code for pair in pairs)
    assert all(words not in pair.code and ">>>" not in pair.code and "total += 5" in pair.code for pair in pairs)
    assert all(pair.english == f"It {words}." for pair in pairs)
    with pytest.raises(ValueError, match="expected at least 4"):
        library_prose(4, 0, tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        library_pairs(4, 0, tmp_path / "none")


def test_the_installed_library_has_code_and_prose() -> None:
    pairs, prose = library_pairs(8, 1), library_prose(8, 1)
    assert len(pairs) == len(prose) == 8 and all("def " in pair.code for pair in pairs)
    assert not any("def " in text or ">>>" in text for text in [*prose, *(pair.english for pair in pairs)])
    assert paragraphs("import os\nx = {1: 2}\n" * 20) == []


def planted(mean: float, p_value: float, coherence: float = 0.9, draws: int = 200) -> list[dict[str, object]]:
    """The records of a layer whose family has this mean AUC and this p-value against every null."""
    base = {"layer": 3, "contrast": "own_matched"}
    nulls = [
        {"kind": "sets", **base, "null": name, "mean_auc": [0.5] * draws, "coherence": [0.5] * draws}
        for name in ("isotropic", "covariance", "rotated")
    ]
    family = {"kind": "sets", **base, "null": "family", "mean_auc": [mean], "coherence": [coherence]}
    ps = {f"p_mean_auc_{name}": p_value for name in ("isotropic", "covariance", "rotated")}
    summary = {"kind": "contrast", **base, "interval": [mean - 0.01, mean + 0.01], "cosine_mean": 0.1, **ps}
    vectors = [{"kind": "presence", "layer": 3, "index": k, "what": "kept"} for k in range(60)]
    return [*nulls, family, summary, *vectors]


@pytest.mark.parametrize(
    ("mean", "p_value", "draws", "outcome"),
    [
        (0.7, 0.001, 200, True),
        (0.7, 0.3, 200, False),
        (0.52, 0.001, 200, False),
        (0.55, 0.001, 200, None),
        (0.7, 0.09, 10, None),
    ],
)
def test_presence_needs_a_high_auc_and_null_sets_that_lack_it(mean, p_value, draws, outcome) -> None:
    assert present(planted(mean, p_value, draws=draws), 3).supported is outcome


def test_signs_decide_by_their_interval() -> None:
    assert coherent(planted(0.6, 0.01, 0.95), 3).supported is True
    assert coherent(planted(0.6, 0.01, 0.5), 3).supported is False
    assert coherent(planted(0.6, 0.01, 0.75), 3).supported is None
    assert stands(0.02, 200, LEVEL).outcome == "not supported"


def test_colours_are_bounded_and_tokens_stay_text() -> None:
    html = str(coloured(["<b>", "x\x07"], [9.0, -0.5], largest=1.0, place=1))
    assert "<b>" not in html and "0.75)" in html and "\x07" not in html and html.count("underline") == 1
    with pytest.raises(ValueError, match="one each"):
        coloured(["a"], [], largest=1.0)


def quiet(*args: object) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs")
    random_family(out)
    return presence(PRESENCE, None, out, fresh=False, at=None, say=quiet, track=quiet)


def test_a_random_family_is_not_found_present(finished: Run) -> None:
    summary = json.loads((finished.path / "summary.json").read_text())
    outcomes = {verdict["claim"]: verdict["supported"] for verdict in summary["verdicts"]}
    assert len(outcomes) == 6
    assert not any(outcome for claim, outcome in outcomes.items() if "probes" not in claim)
    rows = finished.records()
    assert len(pick(rows, kind="presence")) == 2 * 25 and {row["what"] for row in pick(rows, kind="presence")} == {
        "kept",
        "lost",
        "base",
    }
    for row in pick(rows, kind="presence", layer=3):
        assert abs(row["auc_own_matched"] - row["sampled_auc_own_matched"]) < 0.2  # the sample tells of all tokens


def test_the_report_is_complete_and_safe(finished: Run) -> None:
    page = (finished.path / "report.html").read_text()
    for words in ("Code against other text", "Strongest passages of every vector", "Token by token", "All vectors"):
        assert words in page


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_records(finished: Run, tmp_path: Path) -> None:
    family = newest_family(finished.path.parent.parent)
    keep = [row for row in finished.records() if row.get("layer") != 4 and row["kind"] != "text"][:40]
    settings = open_run(finished.path).config
    with start(tmp_path, "presence", settings) as run:
        for row in keep:
            run.record(row)
    again = presence(PRESENCE, family, tmp_path, fresh=False, at=None, say=quiet, track=quiet)
    assert again.path == run.path
    for kind in ("sets", "contrast", "probes"):
        assert pick(again.records(), kind=kind) == pick(finished.records(), kind=kind)


def test_the_newest_family_is_one_of_the_model(tmp_path: Path) -> None:
    paths = {}
    for model in (None, "gpt2"):
        with start(tmp_path, "family", {"model": model}) as run:
            run.summary({"headline": "h"})
        paths[model] = run.path
    with start(tmp_path, "family", {"model": None, "seed": 1}):
        pass  # newer, but unfinished
    assert {model: newest_family(tmp_path, model) for model in paths} == paths
    with pytest.raises(RunError, match="mi-ortho family --model llama"):
        newest_family(tmp_path, "llama")


@pytest.mark.parametrize(
    ("kept", "chosen"), [({"kl": 4, "activation": 6}, "activation"), ({"kl": 5, "activation": 5}, "kl")]
)
def test_without_a_choice_the_family_with_more_that_keep_is_taken(
    kept: dict[str, int], chosen: str, tmp_path: Path
) -> None:
    with start(tmp_path, "family", {"model": None}) as run:
        run.save_tensors("vectors/base", {"base": torch.eye(16)[15]})
        for match, count in kept.items():
            for k in range(7):
                run.save_tensors(f"vectors/{match}/{k:06d}", {"vector": torch.eye(16)[k]})
                run.record({"kind": "vector", "match": match, "index": k, "keeps": k < count})
        run.summary({"headline": "h"})
    family = open_family(run.path)
    assert family.match == chosen and int(family.keeps.sum()) == kept[chosen]


def test_what_cannot_work_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="mi-ortho family"):
        newest_family(tmp_path)
    family = random_family(tmp_path, model_hash="0" * 64)
    with pytest.raises(RunError, match="expected kl"):
        open_family(family.path, "activation")
    run = {"out": tmp_path, "fresh": False, "at": None, "say": quiet, "track": quiet}
    with pytest.raises(ValueError, match="other weights"):
        presence(PRESENCE, family.path, **run)
    good = random_family(tmp_path / "good").path
    for change, words in (({"layers": (0, 1)}, "layers"), ({"own": 2}, "own=2"), ({"text_tokens": 9999}, "context")):
        with pytest.raises(ValueError, match=words):
            presence(replace(PRESENCE, **change), good, **run)
    assert not (tmp_path / "presence").exists()
