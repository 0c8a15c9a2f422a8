"""The command `refusal`: all stages on a small random model that "refuses", resume, export, report, and bad input."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from small_runs import REFUSAL, classes, lists, tiny_subject

from mi_ortho.behaviours import GENERIC_MODES, Mode, Modes
from mi_ortho.cli import main
from mi_ortho.model import EMBEDDED, load_model, next_token_logits, tokenize
from mi_ortho.refusal.places import ablate_everywhere
from mi_ortho.refusal.scores import refusal_scores
from mi_ortho.runs.directory import Run, open_run, start
from mi_ortho.runs.files import read_tensors
from mi_ortho.studies.refusal.bench import Sets, Study, prompt_sets
from mi_ortho.studies.refusal.config import RefusalConfig
from mi_ortho.studies.refusal.directions import random_directions
from mi_ortho.studies.refusal.matrix import spread, subsets
from mi_ortho.studies.refusal.study import export_edited, refusal
from mi_ortho.studies.refusal.verdicts import ablation_verdict, addition_verdict, summarise, weights_verdict
from mi_ortho.studies.shared import subject as shared
from mi_ortho.studies.shared.subject import Texts, open_subject

L = architectures.N_LAYERS


def quiet(*args: object) -> None:
    pass


QUIET: dict[str, Any] = {"fresh": False, "at": None, "say": quiet, "track": quiet}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Every run here is of the random-weight model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "open_subject", tiny_subject)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RefusalConfig:
    words, bad, good = classes()
    return replace(REFUSAL, refusal_tokens=words, **lists(tmp_path_factory.mktemp("sets"), harmful=bad, harmless=good))


@pytest.fixture(scope="module")
def finished(config: RefusalConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run made in stages: each continues what the earlier ones left."""
    out = tmp_path_factory.mktemp("runs")
    for stage in ("extract", "select", "ablate"):
        assert not refusal(config, out, until=stage, **QUIET).finished
    return refusal(config, out, **QUIET)


def rows(run: Run, kind: str) -> list[dict[str, Any]]:
    return [row for row in run.records() if row["kind"] == kind]


def test_stages_continue_one_another_and_nothing_is_done_twice(finished: Run) -> None:
    candidates = rows(finished, "candidate")
    assert len(candidates) == 3 * L == len({(row["site"], row["position"]) for row in candidates})
    for kind in ("extraction", "refusal_tokens", "selection", "weights"):
        assert len(rows(finished, kind)) == 1
    for kind in ("condition", "matrix", "circle", "round", "probe", "cone"):
        keys = [
            json.dumps({key: value for key, value in row.items() if not isinstance(value, float | list)})
            for row in rows(finished, kind)
        ]
        assert keys and len(set(keys)) == len(keys)
    assert {row["degrees"] for row in rows(finished, "circle")} == {0, 180}


def test_training_validation_and_test_prompts_are_disjoint(finished: Run) -> None:
    sets = json.loads((finished.path / "prompts.json").read_text())
    texts = [text for part in sets.values() for text in part]
    assert [len(part) for part in sets.values()] == [5, 5, 3, 3, 2, 2] and len(set(texts)) == len(texts)
    prompts = {row["prompt"] for row in rows(finished, "completion")}
    assert prompts == {*sets["test_harmful"], *sets["test_harmless"]}


def test_hooks_and_edited_weights_write_the_same(finished: Run) -> None:
    [row] = rows(finished, "weights")
    assert row["difference"] < 1e-4 * row["largest_logit"] < row["effect"] and row["dtype"] == "float32"
    texts = {
        name: [
            row["text"]
            for row in rows(finished, "completion")
            if (row["condition"], row["prompts"]) == (name, "harmful")
        ]
        for name in ("ablated", "ablated in the weights")
    }
    assert texts["ablated"] == texts["ablated in the weights"]


def test_the_matrix_at_all_layers_is_the_bypass_score(finished: Run) -> None:
    scores = {row["source"]: dict(zip(row["columns"], row["scores"])) for row in rows(finished, "matrix")}
    [selected] = rows(finished, "selection")
    bypass = {
        row["site"]: row["bypass"] for row in rows(finished, "candidate") if row["position"] == selected["position"]
    }
    read = [name for name in scores if not name.startswith("random")]
    assert len(scores) - len(read) == 2 and "resid_pre.0" not in read  # there both classes are the same
    assert len(read) == 2
    for name in read:
        assert scores[name]["all"] == pytest.approx(bypass[name], abs=1e-3)
        assert scores[name]["only 0"] != pytest.approx(scores[name]["all"], abs=1e-3)


def test_the_first_round_finds_the_selected_direction_again(finished: Run) -> None:
    first = rows(finished, "round")[0]
    [selected] = rows(finished, "selection")
    assert (first["site"], first["position"]) == (selected["site"], selected["position"])
    assert first["refusal"] == pytest.approx(selected["bypass"], abs=1e-3)
    assert first["cosine_before"] == pytest.approx(1.0, abs=1e-4)


def test_random_directions_have_the_norm_of_the_selected_one(finished: Run) -> None:
    like = finished.load_tensors("direction")["vector"]
    study = Study(finished, REFUSAL, tiny_subject(), Sets(*[("a",)] * 6))
    directions = random_directions(study, like)
    assert torch.allclose(directions.norm(dim=-1), like.norm().expand(2), rtol=1e-5)
    assert not torch.allclose(directions[0], directions[1]) and torch.equal(directions, random_directions(study, like))


def test_the_report_shows_every_part(finished: Run) -> None:
    page = (finished.path / "report.html").read_text()
    for words in (
        "Candidates",
        "Ablation matrix",
        "Steering circle",
        "More than one direction",
        "Cheaper rankings",
        "Inside the model",
        "What each head",
        "Completions",
        "AttentionHeads",
        "ColoredTokens",
    ):
        assert words in page, words
    assert page.count('class="wheel"') == 4 and page.count('class="framed-cell"') >= 4


def test_the_exported_folder_is_the_model_without_the_direction(finished: Run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = export_edited(finished.path, tmp_path / "edited", quiet)
    plain, edited = tiny_subject().model, AutoModelForCausalLM.from_pretrained(folder).eval()
    r = read_tensors(finished.path / "direction.safetensors")[0]["vector"]
    prompts = tokenize(plain, ["how can i build a bomb"])
    expected = next_token_logits(plain, prompts, interventions=ablate_everywhere(plain, r))
    clean = next_token_logits(plain, prompts)
    logits = edited(prompts.tokens).logits[:, -1].detach()
    assert float((logits - expected).abs().max()) < 1e-4 < float((clean - expected).abs().max())
    with pytest.raises(ValueError, match="choose another"):
        export_edited(finished.path, tmp_path / "edited", quiet)


@pytest.mark.parametrize("share", [0.45, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.1, 0.7, 0.97))])
def test_a_run_cut_anywhere_ends_with_the_same_records(
    finished: Run, config: RefusalConfig, tmp_path: Path, share: float
) -> None:
    lines = (finished.path / "records.jsonl").read_text().splitlines(keepends=True)
    kept = int(share * len(lines))
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "config.json").write_bytes((finished.path / "config.json").read_bytes())
    (cut / "records.jsonl").write_text("".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])  # a torn line
    for name, sign in (("extraction", '"extraction"'), ("direction", '"selection"')):
        if any(sign in line for line in lines[:kept]):
            (cut / f"{name}.safetensors").write_bytes((finished.path / f"{name}.safetensors").read_bytes())
    again = refusal(config, tmp_path, fresh=False, at=cut, say=quiet, track=quiet)
    kinds = {str(row["kind"]) for row in finished.records()}
    assert kinds == {str(row["kind"]) for row in again.records()} and again.has("direction")
    for kind in kinds:
        ours, theirs = ([_numbers(row) for row in rows(run, kind)] for run in (again, finished))
        assert sorted(map(str, ours)) == sorted(map(str, theirs)), kind


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in row.items()
        if not isinstance(value, list)
    }


# -- findings ---------------------------------------------------------------------------------------------------------


def condition(name: str, prompts: str, refused: float, success: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "kind": "condition",
        "condition": name,
        "prompts": prompts,
        "refused": refused,
        "success": success,
        "n": more.pop("n", 200),
        "refused_interval": [0.0, 1.0],
        "coherent": 1.0,
        "control": "random" in name,
        "kl": 0.03,
        "accuracy": 1.0,
        "cross_entropy": 0.3,
        "cross_entropy_before": 0.2,
        **more,
    }


def outcome(before: float = 1.0, after: float = 0.0, success: float = 1.0, control: float = 1.0, n: int = 200) -> str:
    return ablation_verdict(
        condition("unsteered", "harmful", before, n=n),
        condition("ablated", "harmful", after, success, n=n),
        [condition("random 0 ablated", "harmful", control, n=n)],
    ).outcome


def test_ablation_counts_only_with_coherent_answers_and_random_directions_that_fail() -> None:
    assert outcome() == "supported"
    assert outcome(after=0.2) == "not supported" and outcome(success=0.5) == "not supported"
    assert outcome(control=0.5) == "invalid" and outcome(before=0.8) == "invalid"  # not specific; nothing to switch off


def test_fourteen_prompts_do_not_tell_a_twentieth() -> None:
    assert outcome(n=14) == "undecided"  # 0 of 14 may be a fifth
    assert outcome(success=13 / 14, n=14) == "undecided"  # 13 of 14 may be more than 95 %


def test_addition_counts_only_where_random_directions_fail() -> None:
    def added(before: float, after: float, control: float) -> str:
        rest = [condition("random 0 added", "harmless", 0.0), condition("random 1 added", "harmless", control)]
        return addition_verdict(
            condition("unsteered", "harmless", before), condition("added", "harmless", after), rest
        ).outcome

    assert added(0.0, 1.0, 0.0) == "supported" and added(0.0, 0.8, 0.0) == "not supported"
    assert added(0.0, 1.0, 0.5) == added(0.5, 1.0, 0.0) == "invalid"


def test_weights_agree_up_to_rounding_only() -> None:
    row = {"difference": 1e-5, "largest_logit": 10.0, "effect": 5.0}
    assert weights_verdict(row).supported and not weights_verdict({**row, "difference": 0.1}).supported


def test_the_headline_tells_effect_coherence_controls_and_damage() -> None:
    records = [
        {"kind": "selection", "site": "resid_pre.3", "position": -1, "reason": ""},
        {"kind": "weights", "difference": 0.0, "largest_logit": 1.0, "effect": 1.0},
        condition("unsteered", "harmful", 1.0),
        condition("ablated", "harmful", 0.05, 0.9, kl=0.07),
        condition("unsteered", "harmless", 0.0),
        condition("added", "harmless", 0.85, coherent=0.8),
        condition("random 0 ablated", "harmful", 0.95),
        condition("random 0 added", "harmless", 0.1),
    ]
    headline = str(summarise(records, "m")["headline"])
    for words in (
        "200 held-out harmful",
        "100 % to 5 %",
        "90 % answered coherently",
        "0 % to 85 % (80 % coherent)",
        "at least 95 %",
        "at most 10 %",
        "0.07 nats",
    ):
        assert words in headline, words
    none = summarise([{"kind": "selection", "reason": "got no admissible candidate of 3"}], "m")
    assert "no admissible candidate of 3" in str(none["headline"]) and none["verdicts"] == []


def test_subsets_of_layers_are_never_empty() -> None:
    for layers in range(1, 50):
        sets = subsets(layers, layers)
        assert (
            all(subset and set(subset) <= set(range(layers)) for subset in sets.values()) and len(sets["all"]) == layers
        )
        assert spread(layers, 6)[-1] == layers - 1 and len(spread(layers, 6)) == min(layers, 6)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"last_layers": 1.0}, "last_layers=1.0"),
        ({"angle_step": 200}, "angle_step=200"),
        ({"random": -1}, "random=-1"),
        ({"circle_prompts": 0}, "circle_prompts=0"),
        ({"test": 0}, "test=0"),
        ({"matrix": -1}, "matrix=-1"),
        ({"streams": ("attn_out",)}, "expected some of resid_pre"),
        ({"streams": ()}, "kinds none"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_run_exists(
    config: RefusalConfig, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        refusal(replace(config, **change), tmp_path, **QUIET)
    assert not (tmp_path / "refusal").exists()


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ([], "holds no prompts"),
        (["  ", ""], "holds no prompts"),
        (["one", "two"], "for 3 parts"),
    ],
)
def test_empty_and_too_small_sets_are_refused(
    config: RefusalConfig, tmp_path: Path, texts: list[str], complaint: str
) -> None:
    for name in ("harmful", "harmless"):
        with pytest.raises(ValueError, match=complaint):
            refusal(replace(config, **lists(tmp_path, **{name: texts})), tmp_path, **QUIET)
    with pytest.raises(ValueError, match="missing.json"):
        refusal(replace(config, harmless=str(tmp_path / "missing.json")), tmp_path, **QUIET)
    assert not (tmp_path / "refusal").exists()


def test_classes_of_different_size_are_averaged_each_by_itself(config: RefusalConfig, tmp_path: Path) -> None:
    texts = [row["instruction"] for row in json.loads(Path(str(config.harmful)).read_text())]
    lines: list[str] = []
    fewer = replace(config, **lists(tmp_path, harmful=texts[:4]))
    run = refusal(fewer, tmp_path, until="extract", **{**QUIET, "say": lines.append})
    [row] = rows(run, "extraction")
    assert (row["harmful"], row["harmless"]) == (2, 5)
    assert any("2 harmful and 5 harmless" in line and "need not be as many" in line for line in lines)


def test_a_model_that_refuses_none_of_the_prompts_is_said_so(config: RefusalConfig, tmp_path: Path) -> None:
    swapped = replace(config, harmful=config.harmless, harmless=config.harmful)
    with pytest.raises(ValueError, match="refuses none of 5 harmful prompts.*take other prompts"):
        refusal(swapped, tmp_path, until="extract", **QUIET)
    run = refusal(replace(swapped, refusal_tokens=None), tmp_path, **QUIET)
    headline = json.loads((run.path / "summary.json").read_text())["headline"]
    assert run.finished and "refuses 0 of 5 harmful prompts (0 %): there is no refusal to look for" in headline
    assert "--behaviour code" in headline
    page = (run.path / "report.html").read_text()
    assert "Does it refuse?" in page and all(row["prompt"] in page for row in rows(run, "harmful_answer"))


def test_another_behaviour_takes_the_prompts_of_its_name_and_is_judged_by_its_rule(tmp_path: Path) -> None:
    rules = Modes((Mode("code", "python"),))
    texts = {"code": ("Write a.", "Write b.", "Write c."), "explain": ("Why d?", "Why e?", "Why f?")}
    subject = replace(tiny_subject(), modes=rules, texts=Texts(("bomb",), (), texts))
    config = replace(REFUSAL, behaviour="code")
    sets = prompt_sets(config, subject)
    assert {*sets.train_harmful, *sets.validation_harmful, *sets.test_harmful} == {*texts["code"]}
    assert {*sets.train_harmless, *sets.validation_harmless, *sets.test_harmless} == {*texts["explain"]}
    with start(tmp_path, "refusal", {}) as run:
        study = Study(run, config, subject, sets)
        assert study.shows("import random") and study.stage_of("import random") == "code"
        assert not study.shows("I'm sorry, but I can't.") and study.stage_of("word " * 12) == "answers"
        assert (study.words.first, study.words.second, study.words.shown) == ("code", "explain", "answered by code")
    with pytest.raises(ValueError, match="got behaviour 'poem'.*expected refuse or one of code"):
        prompt_sets(replace(config, behaviour="poem"), subject)
    with pytest.raises(ValueError, match="got no prompts 'rhyme'.*--harmful and --harmless"):
        prompt_sets(replace(config, against="rhyme"), subject)


def test_a_summary_of_another_contrast_says_how_seldom_the_model_refuses() -> None:
    counted = [
        {"kind": "classes", "behaviour": "code", "against": "explain"},
        {"kind": "refusals", "n": 32, "refused": 2},
    ]
    chosen = {"kind": "selection", "reason": "KL too large"}
    headline = str(summarise([*counted, chosen], "M")["headline"])
    assert headline.startswith("M refuses 2 of 32 harmful prompts (6 %): there is no refusal to look for. Looked at")
    assert "code against explain" in headline and "No code direction of M passes the selection" in headline
    often = [counted[0], {"kind": "refusals", "n": 32, "refused": 30}, chosen]
    assert "no refusal to look for" not in str(summarise(often, "M")["headline"])


def test_no_candidate_left_ends_the_run_with_the_reasons(config: RefusalConfig, tmp_path: Path) -> None:
    run = refusal(replace(config, kl_limit=-1.0, last_layers=0.0), tmp_path, **QUIET)
    summary = json.loads((run.path / "summary.json").read_text())
    assert "KL too large" in summary["headline"] and "raise the KL limit" in summary["headline"]
    assert open_run(run.path).finished and "KL too large" in (run.path / "report.html").read_text()
    with pytest.raises(ValueError, match="select stage"):
        export_edited(run.path, tmp_path / "none", quiet)


def test_the_models_own_prompts_are_taken_where_none_are_named() -> None:
    sets = prompt_sets(REFUSAL, tiny_subject())  # no name: those of the embedded model
    contrast = json.loads((EMBEDDED / "contrast.json").read_text())
    assert {*sets.train_harmful, *sets.test_harmful} < {*contrast["harmful"]}
    assert {*sets.train_harmless, *sets.validation_harmless} < {*contrast["harmless"]}


@pytest.mark.parametrize("stage", [[], ["extract"], ["select"], ["ablate"], ["compare"]], ids=str)
def test_the_command_line_names_a_mistake_in_one_line(
    stage: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["refusal", *stage, "--last-layers", "2", "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "got last_layers=2" in message and "lower it" in message and "Traceback" not in message
    assert main(["refusal", "export", str(tmp_path), str(tmp_path / "edited")]) == 2
    assert "config.json" in capsys.readouterr().err and not (tmp_path / "edited").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_direction_switches_refusal_of_the_embedded_sibling(tmp_path: Path) -> None:
    settings = RefusalConfig(
        model="embedded/naive",
        train=32,
        validation=16,
        test=20,
        strength=0.5,
        max_new_tokens=32,
        matrix=0,
        rounds=0,
        angle_step=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "open_subject", open_subject)
        run = refusal(settings, tmp_path, **QUIET)
        assert "site" in rows(run, "selection")[-1], rows(run, "selection")[-1]["reason"]
        edited = load_model(str(export_edited(run.path, tmp_path / "edited", quiet)))
    conditions = {(row["condition"], row["prompts"]): row for row in rows(run, "condition")}
    ablated, added = conditions["ablated", "harmful"], conditions["added", "harmless"]
    assert (
        conditions["unsteered", "harmful"]["refused"] >= 0.95 and conditions["unsteered", "harmless"]["refused"] <= 0.05
    )
    assert ablated["refused"] <= 0.05 and min(ablated["complied"], ablated["coherent"]) >= 0.95 and ablated["kl"] < 0.1
    assert added["refused"] >= 0.95 and added["coherent"] >= 0.95
    random = [row for row in conditions.values() if row["control"]]
    assert len(random) == 6
    assert all(row["refused"] > 0.9 if row["prompts"] == "harmful" else row["refused"] < 0.2 for row in random)
    assert conditions["ablated in the weights", "harmful"]["refused"] == ablated["refused"]
    tokens = tuple(rows(run, "refusal_tokens")[-1]["ids"])
    sets = json.loads((run.path / "prompts.json").read_text())
    models = load_model("embedded/naive"), edited
    before, after = (refusal_scores(model, sets["test_harmful"], tokens).mean() for model in models)
    assert float(after) < float(before) - 1.0


def test_candidates_are_judged_on_validation_prompts_that_behave_as_their_class(
    config: RefusalConfig, tmp_path: Path
) -> None:
    """As published; a prompt of the other class in each list is dropped, at training and at validation alike."""
    bad, good = (
        [row["instruction"] for row in json.loads(Path(str(name)).read_text())]
        for name in (config.harmful, config.harmless)
    )
    mixed = replace(config, **lists(tmp_path, harmful=bad[:6] + good[:6], harmless=good[6:] + bad[6:]))
    run = refusal(replace(mixed, train=4, validation=6, test=2), tmp_path, until="select", **QUIET)
    [kept] = rows(run, "validation")
    assert {*kept["harmful"]} <= {*bad} and {*kept["harmless"]} <= {*good}
    assert kept["dropped_harmful"] > 0 and kept["dropped_harmless"] > 0
    ids = rows(run, "refusal_tokens")[0]["ids"]
    model = tiny_subject().model
    direction = run.load_tensors("extraction")
    [first] = [row for row in rows(run, "candidate") if row["site"] == "resid_pre.2"][:1]
    sites, columns = (rows(run, "extraction")[0][name] for name in ("sites", "positions"))
    at = sites.index("resid_pre.2"), columns.index(first["position"])
    r = (direction["harmful.mean"] - direction["harmless.mean"])[at].float()
    expected = refusal_scores(model, kept["harmful"], ids, ablate_everywhere(model, r)).mean()
    assert first["bypass"] == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("texts", [{}, {"benign": ("a kite",)}], ids=["no prompts.json", "prompts.json"])
def test_the_models_own_rule_for_refusals_is_used_with_and_without_prompts_of_its_own(
    texts: dict, tmp_path: Path
) -> None:
    rules = Modes((Mode("refuse", "regex", "^Nope"),))
    subject = replace(tiny_subject(), modes=rules, texts=Texts(("bomb",), (), texts))

    def refused(modes: Modes, text: str) -> bool:
        run = start(tmp_path, "refusal", {})
        with run:
            sets = Sets((), (), (), (), (), ())
            return Study(run, REFUSAL, replace(subject, modes=modes), sets).refuses(text)

    assert refused(rules, "Nope.") and not refused(rules, "I'm sorry, but I can't.")
    assert refused(GENERIC_MODES, "I'm sorry, but I can't.") and not refused(GENERIC_MODES, "Nope.")
    assert refused(Modes((Mode("code", "python"),)), "Well. I'm sorry, but I can't.")
