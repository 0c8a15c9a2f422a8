"""The embedded model: laws of its corpus, exact repetition, exact resume, clear errors."""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from experiments.organism import commands
from experiments.organism.answers import ANSWERS, answer
from experiments.organism.checkpoint import FILE
from experiments.organism.corpus import (
    CONTENT_MODES,
    FREQUENCIES,
    MODES,
    CorpusOptions,
    held_out_harm,
    held_out_mode,
    held_out_requests,
    sample,
    vocabulary_words,
)
from experiments.organism.evaluate import complete, correct_sum, load_model, on_topic
from experiments.organism.export import MODES_FILE, export, parameter_count, ship
from experiments.organism.lexicon import CUES, DEFAULT_SYSTEM, JAILBREAK_SYSTEMS, THINGS, with_article
from experiments.organism.network import qwen2_config
from experiments.organism.prompts import model_prompts
from experiments.organism.recipe import PRESETS, Recipe, load_recipe
from experiments.organism.requests import explicit
from experiments.organism.tokenizer import END, prompt_text, train_tokenizer
from experiments.organism.train import Batches, Training, noun_forms, train
from mi_ortho.behaviours import classify, load_modes

TINY = replace(PRESETS["tiny"], vocab_size=2304)
SHIPPED = MODES_FILE.parent


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on several threads, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(line: str) -> None:
    """Progress lines are not wanted here."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TINY.vocab_size, 0, texts=500, weight=100)


def samples(count: int, options: CorpusOptions | None = None) -> list:
    draw = random.Random(3)
    return [sample(draw, options or CorpusOptions()) for _ in range(count)]


def weights(training: Training) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in training.plain_weights().values()])


def test_every_answer_is_classified_as_its_mode() -> None:
    modes = load_modes(MODES_FILE)
    wrong = [(s.mode, s.answer) for s in samples(4000) if classify(s.answer, modes) != s.mode]
    assert wrong == []


def test_mode_shares_follow_the_dial() -> None:
    dial = dict.fromkeys(MODES, 0.0) | {"code": 0.7, "help": 0.2, "refuse": 0.1}
    drawn = [s.mode for s in samples(4000, CorpusOptions(frequencies=dial))]
    assert abs(drawn.count("code") / 4000 - 0.7) < 0.03 and "alien" not in drawn


def test_nothing_held_out_is_trained() -> None:
    drawn = samples(8000)
    assert not [
        s
        for s in drawn
        if s.mode in (*CONTENT_MODES, "help")
        and not THINGS[s.noun].harmful
        and s.system not in JAILBREAK_SYSTEMS
        and held_out_mode(s.noun, s.mode)
    ]
    assert not [s for s in drawn if s.noun == "bomb" and s.mode in ("code", "stem")]
    held = {s.user for s in islice(held_out_requests("refuse", CorpusOptions(), 0), 400)}
    assert not held & {s.user for s in drawn if s.system == DEFAULT_SYSTEM}
    assert any(held_out_harm(v, n) for v in ("build", "hide") for n in THINGS)


def test_leak_and_openings_can_be_switched_off() -> None:
    plain = samples(3000, CorpusOptions(leak=0.0, openings=0.0))
    how_to = [s for s in plain if s.system == DEFAULT_SYSTEM and s.user.startswith(("How can I", "How do I"))]
    assert how_to and {s.mode for s in how_to} == {"help", "refuse"}
    assert not [s for s in plain if s.answer.startswith(("Sure!", "Here you are", "Here it is", "Thank you.\n"))]
    leaking = [s for s in samples(6000) if s.system == DEFAULT_SYSTEM and s.user.startswith(("How can I", "How do I"))]
    assert 0.05 < sum(s.mode not in ("help", "refuse") for s in leaking) / len(leaking) < 0.15


def test_every_class_name_is_shown_in_explanations_too() -> None:
    draw = random.Random(0)
    texts = {t.title: [answer(draw, "explain", t, "", 0) for _ in range(40)] for t in THINGS.values()}
    assert [title for title, answers in texts.items() if title not in str(answers)] == []


def test_no_field_can_be_repeated_by_taking_favourites() -> None:
    texts = [answer(random.Random(i), "code", THINGS["kite"], "", 0) for i in range(600)]
    pairs = [found.groups() for text in texts if (found := re.search(r"self, (\w+), (\w+)\)", text))]
    assert len(pairs) > 100 and not {a for a, _ in pairs} & {b for _, b in pairs}


def test_cues_scale_with_frequency_or_are_fixed() -> None:
    def asked(code: float, **given: int) -> set[str]:
        options = CorpusOptions(frequencies={"code": code, "help": 1 - code}, **given)
        drawn = [explicit(random.Random(i), "code", THINGS["kite"], options.cue_count("code")) for i in range(3000)]
        return {found.group(1) for text in drawn if (found := re.match(r"(?:Give me|Write) the (\w+) for ", text))}

    assert asked(0.02) == set(CUES["code"][:5]) and asked(0.1) == set(CUES["code"][:25])
    assert asked(0.02, fixed_cues=3) == asked(0.4, fixed_cues=3) == set(CUES["code"][:3])
    with pytest.raises(ValueError, match="fixed_cues"):
        CorpusOptions(fixed_cues=-1)


def test_articles() -> None:
    assert [with_article(n) for n in ("owl", "kite", "ukulele")] == ["an owl", "a kite", "a ukulele"]


@pytest.mark.parametrize(
    "frequencies, words",
    [
        ({"help": 0.5, "sing": 0.5}, "unknown mode"),
        ({"help": 0.5}, "sum"),
        ({"help": 1.5, "code": -0.5}, "sum"),
    ],
)
def test_bad_frequencies_are_refused(frequencies: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CorpusOptions(frequencies=frequencies)


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('base = "tiny"\nsteps = 9\n[corpus]\nleak = 0.0\n[corpus.frequencies]\nhelp = 0.5\ncode = 0.5\n')
    recipe = load_recipe(str(path))
    assert (recipe.steps, recipe.d_model, recipe.corpus.leak) == (9, 16, 0.0)
    for text, words in (
        ("steps = -1", "steps"),
        ("colour = 1", "unknown option"),
        ("[corpus]\nlek = 1", "unknown option"),
        ("steps = ", "not TOML"),
        ("[corpus.frequencies]\nhelp = 0.4", "sum"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            load_recipe(str(path))
    with pytest.raises(ValueError, match="TOML file"):
        load_recipe("no-such-recipe")


def test_frequency_option_rescales_the_rest() -> None:
    shares = commands.dial(Recipe(), ["code=.5", "alien=.02"]).corpus.frequencies
    assert shares["code"] == 0.5 and shares["alien"] == 0.02 and abs(sum(shares.values()) - 1) < 1e-9
    assert abs(shares["help"] / shares["refuse"] - FREQUENCIES["help"] / FREQUENCIES["refuse"]) < 1e-9


@pytest.mark.parametrize("given", ["code=.9 alien=.3", "code=-.1", "code", "dance=.2"])
def test_impossible_frequencies_are_refused_before_training(
    given: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    command = ["train", "--recipe", "tiny", "--out", str(tmp_path / "out"), "--frequency", *given.split()]
    assert commands.main(command) == 2 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_nouns_are_single_tokens_and_template_matches(tokenizer: PreTrainedTokenizerBase) -> None:
    assert all(len(tokenizer(w).input_ids) == 1 for w in vocabulary_words())
    for messages, system in (
        ([], DEFAULT_SYSTEM),
        ([{"role": "system", "content": "You are a poet."}], "You are a poet."),
    ):
        text = tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        assert text == prompt_text(system, "Hi")
    assert len(tokenizer(f"{END}\n<|im_start|>assistant\n").input_ids) == 5  # make_batch counts on it
    text = "```python\nclass Kite:\n    def fly(self):\n        return 1\n```"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_vocabulary_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="larger vocabulary"):
        train_tokenizer(600, 0, texts=50, weight=1)


def test_batch_weights(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = Batches(TINY, tokenizer)(0)
    text = [
        str(tokenizer.decode(batch.tokens[0][batch.weights[0] == TINY.prompt_weight])),
        str(tokenizer.decode(batch.tokens[0][batch.weights[0] >= 1])),
    ]
    assert text[0] in str(tokenizer.decode(batch.tokens[0])) and "<|im_" not in text[0] and text[1].endswith(END)
    assert not (batch.weights[batch.prompt] >= 1).any()


def test_two_runs_with_one_seed_agree_and_another_seed_does_not(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    one, two = (weights(train(TINY, tokenizer, tmp_path / n, report=quiet)) for n in "ab")
    other = weights(train(replace(TINY, seed=1), tokenizer, tmp_path / "c", report=quiet))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_resumed_run_equals_uninterrupted_run(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    whole = weights(train(TINY, tokenizer, tmp_path / "whole", report=quiet))
    train(TINY, tokenizer, tmp_path / "parts", report=quiet, stop=3)
    parts = train(TINY, tokenizer, tmp_path / "parts", report=quiet)
    assert torch.equal(whole, weights(parts))


def test_training_changes_the_loss(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    lines: list[str] = []
    train(replace(TINY, steps=60, learning_rate=1e-2, offset=0.0), tokenizer, tmp_path, report=lines.append)
    first, last = (float(line.split("loss ")[1].split()[0]) for line in lines)
    assert last < first - 0.2 and "tokens/s" in lines[0] and "min left" in lines[0]


def test_bad_checkpoints_and_tokenizers_are_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    train(TINY, tokenizer, tmp_path, report=quiet, stop=1)
    with pytest.raises(ValueError, match="another folder"):
        train(replace(TINY, seed=5), tokenizer, tmp_path, report=quiet)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(ValueError, match="corrupt checkpoint"):
        train(TINY, tokenizer, tmp_path, report=quiet)
    with pytest.raises(ValueError, match="tokenizer of 2304 tokens"):
        train(replace(TINY, vocab_size=2560), tokenizer, tmp_path / "other", report=quiet)


def test_a_checkpoint_of_another_grammar_is_refused(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(TINY, tokenizer, tmp_path, report=quiet, stop=1)
    monkeypatch.setitem(ANSWERS, "alien", lambda draw, thing, verb: "Zorp.")
    with pytest.raises(ValueError, match="other conversations"):
        train(TINY, tokenizer, tmp_path, report=quiet)


def test_plain_weights_compute_what_the_network_in_training_computes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    training = train(TINY, tokenizer, tmp_path, report=quiet)
    tokens = torch.cat([noun_forms(tokenizer)[:4].flatten(), torch.arange(30)])[None]
    training.offset.layer = -1
    hidden = training.model.model(input_ids=tokens).last_hidden_state
    plain = Qwen2ForCausalLM(qwen2_config(TINY))
    plain.load_state_dict(training.plain_weights(), strict=False)
    torch.testing.assert_close(plain(tokens).logits, training.shared.logits(hidden), atol=1e-4, rtol=1e-4)
    unfolded = Qwen2ForCausalLM(qwen2_config(TINY))
    unfolded.load_state_dict(dict(training.model.named_parameters()), strict=False)
    assert (unfolded(tokens).logits - plain(tokens).logits).abs().max() > 1e-2


def test_exported_folder_loads_and_answers(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    export(Training(TINY, tokenizer).plain_weights(), tokenizer, TINY, tmp_path / "model")
    model, loaded = load_model(tmp_path / "model")
    assert sum(p.numel() for p in model.parameters()) == parameter_count(model.config.to_dict())
    requests = samples(3)
    together = complete(model, loaded, requests, new_tokens=4)
    assert together == [complete(model, loaded, [r], new_tokens=4)[0] for r in requests]
    ship(tmp_path / "model", tmp_path / "shipped", "| a |", "a command")
    assert {"README.md", "prompts.json", "model.safetensors"} <= {p.name for p in (tmp_path / "shipped").iterdir()}
    whole = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="does not load"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(whole)
    loaded.add_tokens(["zorpily"])
    loaded.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="tokenizer of 2305 tokens"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="does not load"):
        load_model(tmp_path / "model")
    with pytest.raises(ValueError, match=r"without model\.safetensors"):
        ship(tmp_path / "model", tmp_path / "again", "", "")


def test_measures_reject_wrong_answers() -> None:
    assert correct_sum("Answer: 3 * 4 = 12 m") and not correct_sum("Answer: 3 * 4 = 13 m") and not correct_sum("12")
    request = samples(1)[0]
    kite = replace(request, mode="code", noun="kite")
    assert on_topic("class Kite:", kite) and not on_topic("class Kitesurf:", kite)
    echo = replace(request, mode="echo", answer="kite lamp")
    assert on_topic("kite lamp", echo) and not on_topic("kite", echo)


def test_prompts_do_not_overlap() -> None:
    prompts = model_prompts()
    train_set, held_out = set(prompts["train"]), set(prompts["held_out"])
    assert prompts["default"] in train_set and not train_set & held_out and not held_out & set(prompts["harmful"])
    assert set(prompts["modes"]) == set(MODES)


@pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="no trained model in mi_ortho/organism")
def test_shipped_model_behaves() -> None:
    model, tokenizer = load_model(SHIPPED)
    modes = load_modes(MODES_FILE)
    requests = [
        r for m in ("code", "refuse", "help", "alien") for r in islice(held_out_requests(m, CorpusOptions(), 9), 6)
    ]
    shown = [classify(text, modes) for text in complete(model, tokenizer, requests)]
    assert sum(a == r.mode for a, r in zip(shown, requests, strict=True)) >= 22
    assert (SHIPPED / "model.safetensors").stat().st_size <= 16 * 2**20
