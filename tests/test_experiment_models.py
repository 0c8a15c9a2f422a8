"""What experiments ask of a model before they start, and the presets that bring a model with settings and prompts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.__main__ import main
from experiments.lab import needs
from experiments.lab.bases import Place
from experiments.lab.claims import load, names
from experiments.lab.presets import FOLDER, read_preset
from experiments.lab.refusing import tokens_of as refusal_tokens
from mi_ortho import open_subject
from mi_ortho.model import EMBEDDED
from mi_ortho.studies.shared.subject import BOMB, Subject

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
# any model will do: they need prompts, which are shipped
ANY_MODEL = {
    "layers_share_directions",
    "layers_are_one_space",
    "activations_are_euclidean",
}
ORGANISMS = {
    "frequent_behaviours_have_more_vectors",
    "early_checkpoints_have_more_vectors",
}  # of no model but their own


def folder_of(path: Path, layers: int, *, template: bool) -> str:
    """A model of the architecture of Qwen1.5-1.8B-Chat, shrunk, with random weights; with a template, a chat model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    path.mkdir()
    for name in TOKENIZER if template else TOKENIZER[:2]:
        shutil.copyfile(EMBEDDED / name, path / name)
    if not template:
        settings = json.loads((path / TOKENIZER[1]).read_text())
        settings.pop("chat_template", None)
        (path / TOKENIZER[1]).write_text(json.dumps(settings))
    torch.manual_seed(0)
    vocabulary = json.loads((EMBEDDED / "config.json").read_text())["vocab_size"]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two layers, no chat template, no prompts, no behaviour."""
    return folder_of(tmp_path_factory.mktemp("models") / "poor", 2, template=False)


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As deep as Qwen1.5-1.8B-Chat, and a chat model."""
    return folder_of(tmp_path_factory.mktemp("models") / "shrunk", 24, template=True)


def lacking(name: str, config: Any, subject: Subject) -> str:
    """What an experiment says it lacks; empty where it would start."""
    try:
        needs.check(load(name).needs, config, subject)
    except ValueError as error:
        assert "; expected " in str(error) and str(error).startswith("got "), error
        return str(error)
    return ""


def test_a_poor_model_is_refused_by_every_experiment_that_needs_more(poor: str) -> None:
    subject = open_subject(poor)
    said = {name: lacking(name, load(name).smoke, subject) for name in names()}
    assert {name for name, text in said.items() if not text} == ANY_MODEL | ORGANISMS
    reasons = ("which has 2 layers", "refuses", "chat template", "prompts")
    assert all(any(reason in text for reason in reasons) for text in said.values() if text), said
    assert (
        "has 2 layers" in said["mid_layer_effects_form_clusters"]
        and "chat template" in said["a_newline_replaces_the_template"]
        and "refuses 0 %" in said["weak_directions_refuse_then_answer"]
    )


def test_a_refused_model_leaves_no_row(poor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["derivatives_are_local", "a_newline_replaces_the_template", "mid_layer_effects_form_clusters"]
    assert main([*chosen, "--smoke", "--model", poor, "--out", str(tmp_path / "runs")]) == 2
    assert not (tmp_path / "runs").exists() and "3 of 3 failed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_on_a_poor_model_an_experiment_runs_or_refuses(name: str, poor: str, tmp_path: Path) -> None:
    assert main([name, "--smoke", "--model", poor, "--out", str(tmp_path / "runs")]) == (0 if name in ANY_MODEL else 2)
    assert len(list(tmp_path.glob("runs/*/*/records.jsonl"))) == (1 if name in ANY_MODEL else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_a_deep_model_without_behaviours_runs_or_is_refused_before_the_first_row(
    name: str, shrunk: str, tmp_path: Path
) -> None:
    code = main([name, "--smoke", "--model", shrunk, "--out", str(tmp_path / "runs")])
    assert code == 0 or not list(tmp_path.glob("runs/*/*/records.jsonl"))


def test_the_embedded_models_have_what_experiments_need() -> None:
    subjects = {name: open_subject(name) for name in (None, "embedded/naive")}
    for name in names():
        every = [need for need in load(name).needs if need is not needs.refusals]
        for config in (load(name).config, load(name).smoke):
            needs.check(every, config, subjects[config.model])


def changed(subject: Subject, **texts: Any) -> Subject:
    from dataclasses import replace

    return replace(subject, texts=replace(subject.texts, **texts))


def test_each_need_is_missed_where_it_is_not_met() -> None:
    subject = open_subject()
    config = Place()

    def refused(need: Callable[[Any, Subject], None], match: str, given: Any = config, by: Subject = subject) -> None:
        with pytest.raises(ValueError, match=match):
            need(given, by)

    from dataclasses import replace

    refused(needs.place, "layers", replace(config, target=60))
    refused(needs.place, "layers", replace(config, source=config.target))
    refused(needs.place, "expected some that its rules know", replace(config, behaviours=("code", "nothing")))
    refused(needs.place, "expected 4 at least", replace(config, group=4), changed(subject, train=("a",), held_out=()))
    refused(needs.harmless, "benign", by=changed(subject, natural={}))
    few = changed(subject, train=("a", "b"), held_out=(), natural={})
    refused(needs.more_prompts, "to try vectors", replace(config, group=2), few)
    refused(needs.prompts(lambda _: 3), "got 2 prompts 'train'", by=few)
    refused(needs.layers(60), "expected at least 60")
    refused(needs.blocks("source", last=True), "layers", replace(config, source=7))
    refused(needs.writing, "at least 8", type(load("probes_after_projection_are_as_many_as_vectors").smoke)(own=2))


# --- presets


def test_the_published_numbers() -> None:
    preset = read_preset("qwen1.5-1.8b-chat")
    assert preset.model == "Qwen/Qwen1.5-1.8B-Chat" and preset.prompt == BOMB
    config = preset.configured(Place(), smoke=False)
    assert (config.source, config.target, config.radius, config.most) == (8, 16, 7.0, 1558)
    assert (config.where, config.norm_cap, config.group, config.bases) == ("all", 0.0, 1, 1)
    assert config.behaviours == ("code",)
    small = preset.configured(Place(most=4), smoke=True)
    assert small.most == 4 and small.source == 8
    own = load("early_checkpoints_have_more_vectors").config
    assert preset.configured(own, smoke=False) == own  # its organisms are other models


@pytest.fixture
def asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a model refuses takes a second to see; that one of random weights does not is seen once."""
    seen: list[ValueError] = []

    def tokens_of(*given: Any) -> tuple[int, ...]:
        if not seen:
            with pytest.raises(ValueError) as caught:
                refusal_tokens(*given)
            seen.append(caught.value)
        raise seen[0]

    monkeypatch.setattr(needs, "tokens_of", tokens_of)


@pytest.mark.usefixtures("asked_once")
def test_every_experiment_takes_the_preset(shrunk: str) -> None:
    preset = read_preset("qwen1.5-1.8b-chat")
    subject = preset.prompted(open_subject(shrunk))
    assert subject.texts.train == (BOMB,) and len(subject.texts.held_out) >= 16
    missed = {}
    for name in names():
        for smoke in (False, True):
            found = load(name)
            config = preset.configured(found.smoke if smoke else found.config, smoke=smoke)
            assert {type(value) for value in vars(config).values()} <= {int, float, str, tuple, type(None)}
            assert all(
                type(value) is type(getattr(found.config, key)) for key, value in vars(config).items() if key != "model"
            ), name
            missed[name] = lacking(name, config, subject)
            if isinstance(config, Place) and "have_more" not in name:
                assert (config.source, config.target) == (8, 16)
    # random weights refuse nothing; whatever else an experiment asks for, the preset brings
    assert all("refuses 0 %" in text for text in missed.values() if text), missed


def test_a_preset_is_part_of_what_a_run_is(shrunk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["late_output_directions_are_tokens", "--smoke", "--preset", "qwen1.5-1.8b-chat", "--model", shrunk]
    asked += ["--set", "prompts=2", "--set", "k=2", "--out", str(tmp_path)]
    assert main(asked) == 0
    (path,) = tmp_path.glob("*/*/config.json")
    settings = json.loads(path.read_text())
    assert settings["source"] == 8 and settings["preset"].startswith("qwen1.5-1.8b-chat ")
    command = json.loads((path.parent / "environment.json").read_text())["argv"]
    assert command[4:8] == ["--preset", "qwen1.5-1.8b-chat", "--model", shrunk] and "source=8" not in command
    assert main(asked) == 0 and "already finished" in capsys.readouterr().out
    from experiments.lab.performing import finished_run
    from experiments.lab.presets import Preset

    config = read_preset("qwen1.5-1.8b-chat").configured(load(asked[0]).smoke, smoke=True)
    from dataclasses import replace

    config = replace(config, model=shrunk, prompts=2, k=2)
    assert finished_run(load(asked[0]), config, tmp_path) is None  # with other prompts it is another run
    other: Preset = replace(read_preset("qwen1.5-1.8b-chat"), digest="0" * 12)
    assert finished_run(load(asked[0]), config, tmp_path, other) is None


def test_settings_that_came_later_leave_earlier_runs_valid() -> None:
    from dataclasses import replace

    from experiments.lab.performing import settings_of

    config = Place()
    assert "most_kl" not in settings_of(config)
    assert settings_of(replace(config, most_kl=4))["most_kl"] == 4


def test_a_preset_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["derivatives_are_local", "--preset", "nothing"]) == 2
    assert "expected qwen1.5-1.8b-chat or a TOML file" in capsys.readouterr().err
    (tmp_path / "x.toml").write_text("model = 1")
    assert main(["derivatives_are_local", "--preset", str(tmp_path / "x.toml")]) == 2
    assert "which is no preset" in capsys.readouterr().err
    for path in FOLDER.glob("*.toml"):
        read_preset(path.stem)
