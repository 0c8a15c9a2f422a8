"""What counts as keeping a behaviour: never what no rule knows, and never what the model does by itself."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch

from mi_ortho.behaviours import AS_THE_BASE, CHAT_MODES, INCOHERENT, Mode, Modes, likeness
from mi_ortho.elicitation.objectives import match
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import slice_model
from mi_ortho.runs.directory import start
from mi_ortho.steering import Setting, complete, judged_by_answers, measure, yardstick
from mi_ortho.studies.family import stages
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.job import Job, check_behaviour, prepare
from mi_ortho.studies.family.own_answers import with_own_answers
from mi_ortho.studies.family.page_records import FamilyRun
from mi_ortho.studies.family.stages import choose_base
from mi_ortho.studies.family.verdicts import counts, headline
from mi_ortho.studies.shared.subject import modes_of, texts_of

TEXTS = ("river stone", "cloud river")
NOTHING = Modes((Mode("never", "regex", "no such text"),))


def rules_for(*texts: str) -> Modes:
    """Rules that recognise exactly these texts."""
    return Modes((Mode("shown", "regex", f"^({'|'.join(map(re.escape, texts))})$"),))


def measurements(modes: Modes, base: torch.Tensor, vectors: torch.Tensor) -> list[dict[str, Any]]:
    model = architectures.model("qwen2")
    setting = Setting(model, resid_post(0), "all", modes, max_new_tokens=4)
    z = slice_model(model, setting.prompts(TEXTS), source=resid_post(0), target=resid_post(2), where="all")
    return measure(yardstick(setting, TEXTS, base, match(z, base), answer_tokens=4), vectors, ["stone cloud"])


def vectors() -> torch.Tensor:
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(3)) * 3


def test_nothing_keeps_the_behaviour_of_a_base_that_no_rule_knows() -> None:
    rows = measurements(NOTHING, vectors()[0], vectors())
    assert {row["mode"] for row in rows} == {"other"}
    assert not any(row["keeps"] for row in rows) and {row["transfer"] for row in rows} == {0.0}
    assert {row["train_share"] for row in rows} == {0.0}


def test_the_base_keeps_its_own_behaviour_where_a_rule_knows_it() -> None:
    setting = Setting(architectures.model("qwen2"), resid_post(0), "all", NOTHING, max_new_tokens=4)
    first, second = (done.text for done in complete(setting, TEXTS, vectors()[:1])[0])
    [row] = measurements(rules_for(first, second), vectors()[0], vectors()[:1])
    assert row["keeps"] and row["train_share"] == 1.0
    if first != second:  # the second prompt's text is known to no rule: it says nothing about the share
        [row] = measurements(rules_for(first), vectors()[0], vectors()[:1])
        assert row["keeps"] and row["train_share"] == 1.0
        [row] = measurements(rules_for(second), vectors()[0], vectors()[:1])
        assert not row["keeps"] and row["train_share"] == 1.0


@pytest.fixture
def job(tmp_path: Path) -> Any:
    """A job whose rows a test writes itself."""
    model = architectures.model("qwen2")

    def make(unsteered: str, melbo: list[str], text: str = "", sinks_of: Sequence[int] = (), **settings: Any) -> Job:
        config = replace(FamilyConfig(), source=0, target=2, n=1, n_kl=1, where="all", **settings)
        run = start(tmp_path, "family", {"n": str(settings), "modes": melbo, "plain": unsteered, "text": text})
        for index in range(len(TEXTS)):
            run.record({"kind": "unsteered", "prompt": index, "mode": unsteered, "text": text})
        for index, mode in enumerate(melbo):
            row = {"kind": "melbo", "index": index, "mode": mode, "modes": [mode, mode], "text": f"text {index}"}
            run.record(row | {"objective": float(index)} | ({"sinks": sinks_of[index]} if sinks_of else {}))
        return prepare(run, config, model, Modes((Mode("code", "python"), Mode("refuse", "refusal"))), TEXTS, ())

    return make


def test_a_base_that_makes_sinks_is_the_last_choice(job: Any) -> None:
    vectors = torch.eye(3, 32)
    for sinks, chosen in (((0, 0, 0), 2), ((0, 0, 7), 1), ((3, 5, 7), 2)):
        assert torch.equal(
            choose_base(job("refuse", ["code"] * 3, text=str(sinks), sinks_of=sinks), vectors), vectors[chosen]
        )


def test_a_behaviour_is_taken_first_from_vectors_that_make_no_sinks(job: Any) -> None:
    vectors, modes = torch.eye(3, 32), ["list", "other", "refuse"]
    both = Modes((Mode("list", "regex", "x"), Mode("refuse", "refusal")))
    for sinks, chosen in (((9, 0, 0), 2), ((0, 0, 9), 0), ((9, 0, 9), 0)):
        made = job("other", modes, text=f"auto {sinks}", sinks_of=sinks, behaviour="auto")
        made = replace(made, setting=replace(made.setting, modes=both))
        assert torch.equal(choose_base(made, vectors), vectors[chosen])


def test_the_headline_says_that_a_base_makes_sinks() -> None:
    rows = [
        {"kind": "unsteered", "mode": "other", "prompt_text": "Why?"},
        {"kind": "base", "mode": "code", "keeps": True, "norm": 1.0, "text": "x = 1", "sinks": 35, "positions": 36},
        {"kind": "vector", "match": "kl", "index": 0, "mode": "code", "keeps": True, "norm": 2.0},
    ]
    assert "turns 35 of 36 positions into attention sinks" in headline(rows, {"kl": counts(rows, "kl")}, {"kl": 0}, "m")
    rows[1]["sinks"] = 0
    assert "sinks" not in headline(rows, {"kl": counts(rows, "kl")}, {"kl": 0}, "m")


@pytest.mark.parametrize("behaviour", ["auto", "other", "refuse"])
def test_a_base_without_a_behaviour_of_its_own_is_not_chosen(behaviour: str, job: Any) -> None:
    with pytest.raises(ValueError, match="expected at least one that shows what the model does not show") as error:
        choose_base(job("refuse", ["other", "refuse", "other"], behaviour=behaviour), torch.eye(3, 32))
    assert "they show: other, refuse; unsteered: refuse" in str(error.value)


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [
        ("refuse", "text 0", "without it too"),
        ("refuse", "Text 0!", "without it too"),
        (INCOHERENT, "", "is incoherent"),
    ],
)
def test_ones_own_base_must_change_the_answer(mode: str, text: str, words: str, job: Any) -> None:
    with pytest.raises(ValueError, match=words) as error:
        choose_base(job("refuse", [mode], base="mine.safetensors", text=text), torch.eye(1, 32))
    assert all(word in str(error.value) for word in ("mine.safetensors", "'text 0'", "river stone", "another base"))
    assert "\n" not in str(error.value)


def test_a_base_that_no_rule_knows_is_compared_with_its_own_answers() -> None:
    setting = Setting(architectures.model("qwen2"), resid_post(0), "all", NOTHING, max_new_tokens=4)
    base = vectors()[2]
    judged = judged_by_answers(setting, TEXTS, base)
    assert judged.modes.behaviours == (AS_THE_BASE, "never")
    own = {mode.pattern for mode in judged.modes.modes if mode.name == AS_THE_BASE}
    assert own == {completion.text for completion in complete(setting, TEXTS, base[None])[0]}
    rows = measurements(judged.modes, base, vectors())
    assert rows[2]["keeps"] and rows[2]["mode"] == AS_THE_BASE and rows[2]["train_share"] == 1.0
    for row in rows:
        assert row["keeps"] == (max(likeness(row["text"], text) for text in own) >= 0.5)
    assert not all(row["keeps"] for row in rows)  # else nothing is told apart


def test_only_ones_own_base_without_a_behaviour_is_compared_so(job: Any) -> None:
    known = job("other", ["code"], base="mine.safetensors")
    assert with_own_answers(known, vectors()[0]) is known
    searched = job("other", ["other", "code"])
    assert with_own_answers(searched, vectors()[0]) is searched
    for mode in ("other", "refuse"):  # what no rule knows, and what the model shows without it too, in other words
        own = job("refuse", [mode], base=f"{mode}.safetensors")
        assert torch.equal(choose_base(own, torch.eye(1, 32)), torch.eye(1, 32)[0])
        assert with_own_answers(own, vectors()[2]).setting.modes.names[0] == AS_THE_BASE


def test_the_headline_says_that_answers_were_compared() -> None:
    rows = [
        {"kind": "unsteered", "mode": "other", "prompt_text": "Why?"},
        {"kind": "base", "mode": AS_THE_BASE, "keeps": True, "norm": 1.0, "text": "You can\njust add it."},
        {"kind": "vector", "match": "kl", "index": 0, "mode": AS_THE_BASE, "keeps": True, "norm": 2.0},
        {"kind": "vector", "match": "kl", "index": 1, "mode": "other", "keeps": False, "norm": 2.0},
    ]
    text = headline(rows, {"kl": counts(rows, "kl")}, {"kl": 1e-8}, "tiny")
    assert (
        text.startswith("1 of 2 mutually orthogonal vectors")
        and "as their base vector does (“You can just add it." in text
    )
    assert "compared with the base's" in text and "instead of" not in text


def test_the_strongest_of_those_that_show_it_is_the_base(job: Any) -> None:
    rows = torch.eye(4, 32)
    assert torch.equal(choose_base(job("refuse", ["other", "code", "code", "refuse"]), rows), rows[2])
    choice = choose_base(job("refuse", ["code"], base="mine.safetensors"), rows[:1])
    assert torch.equal(choice, rows[0])
    assert torch.equal(choose_base(job("other", ["other", "refuse"]), rows), rows[1])


@pytest.mark.parametrize("behaviour", ["other", "cod"])
def test_a_behaviour_that_no_rule_gives_is_refused_before_anything(behaviour: str) -> None:
    modes = Modes((Mode("code", "python"),))
    with pytest.raises(ValueError, match="expected auto or one that the rules know: code"):
        check_behaviour(FamilyConfig(behaviour=behaviour), modes)
    check_behaviour(FamilyConfig(behaviour="code"), modes)
    check_behaviour(FamilyConfig(behaviour="auto"), modes)


def test_a_random_bases_family_keeps_nothing_of_a_base_without_a_behaviour() -> None:
    rows = [
        {"kind": "base", "mode": "other", "keeps": False},
        {"kind": "vector", "match": "kl", "index": 0, "mode": "other", "keeps": False},
        {"kind": "control", "control": "random_base", "match": "kl", "index": 0, "mode": "other", "keeps": False},
    ]
    assert counts(rows, "kl")["controls"] == {"random_base": 0}
    run = FamilyRun({}, {}, {}, rows, {}, {}, {})
    assert not any(run.keeps(row) for row in rows[1:])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"train": "abc"}', "train of another form"),
        ('{"train": ["a", 3]}', "train"),
        ('{"train": ["a", " "]}', "train"),
        ('{"train": ["a"], "held_out": "b"}', "held_out of another form"),
        ('{"train": ["a"], "modes": {"code": "abc"}}', "code of another form"),
        ('{"train": ["a"], "modes": ["abc"]}', "modes as list"),
        ("[1]", "without a list train"),
    ],
)
def test_prompts_that_are_no_lists_of_texts_are_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(ValueError, match=r"expected") as error:
        texts_of(str(tmp_path))
    assert words in str(error.value) and "prompts.json" in str(error.value)


def test_a_folders_rules_and_prompts_do_not_need_each_other(tmp_path: Path) -> None:
    (tmp_path / "modes.json").write_text('{"modes": [{"name": "refuse", "rule": "regex", "pattern": "^Nope"}]}')
    assert modes_of(str(tmp_path)).behaviours == ("refuse",) and texts_of(str(tmp_path)).held_out == ()
    (tmp_path / "prompts.json").write_text(
        '{"train": ["a"], "default": "a", "modes": {"code": ["b"]}, "harmful": ["c"]}'
    )
    (tmp_path / "modes.json").unlink()
    texts = texts_of(str(tmp_path))
    assert modes_of(str(tmp_path)) is CHAT_MODES and texts.train == ("a",) and texts.held_out == ()
    assert texts.natural == {"code": ("b",), "train": ("a",), "harmful": ("c",)}


def test_the_published_search_ends_after_as_many_failures_as_the_settings_say(job: Any, monkeypatch: Any) -> None:
    """A resumed run counts them by the settings: the search itself must not go on for longer."""
    settings: dict[str, Any] = {}
    monkeypatch.setattr(stages, "melbo_ortho_published", lambda *goal, **options: settings.update(options) or iter(()))
    search_job = job("refuse", ["code"], solver="published", patience=3)
    stages.search(search_job, "activation", match(search_job.z, vectors()[0]), vectors()[0], 1)
    assert settings["patience"] == 3
