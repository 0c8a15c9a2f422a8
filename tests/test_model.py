"""Prompts, reading, writing and generation on random-weight models of five architectures and on a HookedTransformer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from torch import Tensor

from mi_ortho.interventions.edits import Ablate, Add
from mi_ortho.interventions.sites import Site, attn_out, attn_pattern, mlp_out, resid_mid, resid_post, resid_pre
from mi_ortho.model import (
    Prompts,
    answer_logits,
    folder_of,
    generate,
    generate_ids,
    intervene,
    load_model,
    next_token_logits,
    read,
    tokenize,
)
from mi_ortho.model.load import weights
from mi_ortho.studies.shared.subject import model_hash, texts_of

HOOKED = pytest.param("hooked", marks=pytest.mark.tl3)
EVERY = pytest.mark.parametrize("name", [*architectures.ARCHITECTURES, HOOKED])
ONE = pytest.mark.parametrize("name", ["qwen2", HOOKED])
TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea"]
ANSWERS = ["yes i can", "no", "the stars"]
D = architectures.D_MODEL


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts_of(name: str, answers: list[str] | None = None) -> tuple[Any, Prompts]:
    model = architectures.model(name)
    return model, tokenize(model, TEXTS, answers=answers)


# -- prompts ----------------------------------------------------------------------------------------------------------


@ONE
def test_prompts_end_at_one_column_and_answers_begin_there(name: str):
    model, prompts = prompts_of(name, ANSWERS)
    word = model.tokenizer.convert_tokens_to_ids
    n = prompts.prompt_length
    start = [word(w) for w in ["<start>", "user", "cake", "<end>", "<start>", "assistant"]]
    assert prompts.tokens[1, n - 6 : n].tolist() == start
    assert prompts.tokens[1, n:].tolist()[:1] == [word("no")]
    assert prompts.mask[1].tolist() == [False] * (n - 6) + [True] * 7 + [False] * 2
    assert prompts.mask[2].all().item() is False and prompts.mask[:, n - 1].all()
    assert prompts.texts == tuple(TEXTS) and len(prompts) == 3 and prompts.padded


@ONE
def test_answers_as_ids_equal_answers_as_texts(name: str):
    model, prompts = prompts_of(name, ANSWERS)
    ids = [text.split() for text in ANSWERS]
    ids = [model.tokenizer.convert_tokens_to_ids(row) for row in ids]
    again = tokenize(model, TEXTS, answers=ids)
    assert torch.equal(again.tokens, prompts.tokens) and torch.equal(again.mask, prompts.mask)


@ONE
def test_system_messages_stand_before_the_user(name: str):
    model = architectures.model(name)
    plain, led = tokenize(model, ["cake"]), tokenize(model, ["cake"], system="the sea")
    word = model.tokenizer.convert_tokens_to_ids
    led_ids = led.tokens[0].tolist()
    assert led_ids == [word(w) for w in ["<start>", "system", "the", "sea", "<end>"]] + plain.tokens[0].tolist()


@pytest.mark.parametrize("name", ["qwen2", "gpt2", HOOKED])
def test_without_template_the_text_is_taken_as_it_is(name: str):
    model = architectures.model(name, chat=False)
    word = model.tokenizer.convert_tokens_to_ids
    assert tokenize(model, ["the sea"]).tokens[0].tolist() == [word("<bos>"), word("the"), word("sea")]
    with pytest.raises(ValueError, match="chat template"):
        tokenize(model, ["the sea"], system="cake")


@ONE
def test_repeat_puts_copy_after_copy(name: str):
    _, prompts = prompts_of(name, ANSWERS)
    twice = prompts.repeat(2)
    assert torch.equal(twice.tokens[3:], prompts.tokens) and torch.equal(twice.tokens[:3], prompts.tokens)
    assert twice.texts == prompts.texts * 2 and twice.prompt_length == prompts.prompt_length


@ONE
@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"texts": []}, "got no texts"),
        ({"texts": ["cake", "  "]}, "empty text at position 1"),
        ({"texts": "cake"}, "one string as texts"),
        ({"texts": ["cake " * 80]}, "sequence of 85 tokens; expected at most 64"),
        ({"texts": ["cake"], "answers": ["sea " * 60]}, "expected at most 64"),
        ({"texts": ["cake"], "answers": []}, "got no answers"),
        ({"texts": ["cake"], "answers": [""]}, "empty text at position 0 of answers"),
        ({"texts": ["cake"], "answers": ["yes", "no"]}, "got 2 answers for 1 texts"),
        ({"texts": ["cake"], "answers": [[3, 999]]}, "answer token 999"),
    ],
)
def test_bad_prompts_are_named(name: str, arguments: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        tokenize(architectures.model(name), **arguments)


# -- reading ----------------------------------------------------------------------------------------------------------


@EVERY
def test_the_residual_stream_adds_up(name: str):
    model, prompts = prompts_of(name)
    sites = [resid_pre(2), resid_post(1), attn_out(2), mlp_out(2), resid_post(2), attn_pattern(2)]
    found = read(model, prompts, sites)
    assert list(found) == sites and torch.equal(found[resid_pre(2)], found[resid_post(1)])
    total = found[resid_pre(2)] + found[attn_out(2)] + found[mlp_out(2)]
    assert torch.allclose(found[resid_post(2)], total, atol=1e-5)
    pattern = found[attn_pattern(2)][prompts.mask[:, None, :].expand(-1, 4, -1)]
    assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
    attended = found[attn_pattern(2)].amax(dim=(1, 2), keepdim=False)[~prompts.mask]
    real_rows = found[attn_pattern(2)] * prompts.mask[:, None, :, None]
    assert real_rows.triu(1).abs().max() == 0 and attended.numel() > 0
    assert (real_rows * ~prompts.mask[:, None, None, :]).abs().max() < 1e-9


@EVERY
def test_resid_mid_lies_between_attention_and_mlp(name: str):
    model, prompts = prompts_of(name)
    if name == "gpt_neox":  # attention and MLP in parallel: there is no such place
        with pytest.raises(ValueError, match="no resid_mid"):
            read(model, prompts, [resid_mid(2)])
        return
    found = read(model, prompts, [resid_pre(2), attn_out(2), resid_mid(2)])
    assert torch.allclose(found[resid_mid(2)], found[resid_pre(2)] + found[attn_out(2)], atol=1e-5)


@EVERY
def test_a_padded_batch_reads_what_each_prompt_reads_alone(name: str):
    model, prompts = prompts_of(name)
    together = read(model, prompts, [resid_post(3)])[resid_post(3)]
    logits = next_token_logits(model, prompts)
    for i, text in enumerate(TEXTS):
        single = tokenize(model, [text])
        alone = read(model, single, [resid_post(3)])[resid_post(3)][0]
        assert torch.allclose(together[i, -len(alone) :], alone, atol=1e-4)
        assert torch.allclose(logits[i], next_token_logits(model, single)[0], atol=1e-4)


@ONE
def test_sites_beyond_the_model_are_refused(name: str):
    model, prompts = prompts_of(name)
    with pytest.raises(ValueError, match="got site resid_post.4; expected a layer from 0 to 3"):
        read(model, prompts, [resid_post(4)])
    assert read(model, prompts, []) == {}


# -- writing ----------------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(
    "written, seen",
    [
        (resid_pre(0), resid_pre(0)),
        (resid_pre(2), resid_post(1)),
        (resid_post(1), resid_pre(2)),
        (attn_out(2), attn_out(2)),
        (mlp_out(2), resid_post(2)),
        (resid_post(3), resid_post(3)),
    ],
    ids=str,
)
def test_a_vector_put_in_comes_out(name: str, written: Site, seen: Site):
    model, prompts = prompts_of(name)
    v = normal(3, D)
    clean = read(model, prompts, [seen])[seen]
    with intervene(model, {written: Add(v)}):
        steered = read(model, prompts, [seen])[seen]
    assert torch.allclose(steered - clean, v[:, None].expand_as(clean), atol=1e-5)


@EVERY
def test_what_attention_is_given_reaches_the_residual_stream(name: str):
    model, prompts = prompts_of(name)
    v = normal(D)
    seen = resid_post(2) if name == "gpt_neox" else resid_mid(2)
    clean = read(model, prompts, [seen])[seen]
    with intervene(model, {attn_out(2): Add(v)}):
        assert torch.allclose(read(model, prompts, [seen])[seen], clean + v, atol=1e-5)


@EVERY
def test_both_names_of_one_activation_write_the_same(name: str):
    model, prompts = prompts_of(name)
    v = normal(D)
    clean = next_token_logits(model, prompts)
    a, b = (next_token_logits(model, prompts, interventions={site: Add(v)}) for site in (resid_post(1), resid_pre(2)))
    assert torch.equal(a, b) and not torch.allclose(a, clean, atol=1e-3)


@EVERY
@pytest.mark.parametrize("where", ["all", "prompt", "generated", 1, 3])
def test_where_chooses_columns_and_never_padding(name: str, where: Any):
    model, prompts = prompts_of(name, ANSWERS)
    n = prompts.prompt_length
    column = torch.arange(prompts.tokens.shape[1])
    chosen = {"all": column >= 0, "prompt": column < n, "generated": column >= n}.get(where)
    chosen = ((column >= n - where) & (column < n) if chosen is None else chosen) & prompts.mask
    clean = read(model, prompts, [resid_post(1)])[resid_post(1)]
    v = normal(3, D)
    with intervene(model, {resid_post(1): Add(v)}, prompts=prompts, where=where):
        steered = read(model, prompts, [resid_post(1)])[resid_post(1)]
    assert torch.equal(steered, torch.where(chosen[..., None], clean + v[:, None], clean))


@ONE
def test_rows_are_steered_each_by_its_own_vector(name: str):
    model, prompts = prompts_of(name)
    v = normal(3, D)
    together = next_token_logits(model, prompts, interventions={resid_post(1): Add(v)})
    for i in range(3):
        alone = next_token_logits(model, prompts, interventions={resid_post(1): Add(v[i])})
        assert torch.allclose(together[i], alone[i], atol=1e-5)


@ONE
def test_the_model_is_as_before_also_after_an_exception(name: str):
    model, prompts = prompts_of(name)
    clean = next_token_logits(model, prompts)
    with pytest.raises(RuntimeError, match="mine"), intervene(model, {resid_post(1): Add(normal(D))}):
        assert not torch.equal(next_token_logits(model, prompts), clean)
        raise RuntimeError("mine")
    assert torch.equal(next_token_logits(model, prompts), clean)
    with intervene(model, {resid_post(1): Add(normal(D))}):  # the site is free again
        pass


@ONE
def test_contexts_nest_at_different_sites(name: str):
    model, prompts = prompts_of(name)
    both = {resid_post(0): Add(normal(D)), mlp_out(2): Ablate(normal(2, D))}
    (a, f), (b, g) = both.items()
    with intervene(model, {a: f}), intervene(model, {b: g}):
        nested = next_token_logits(model, prompts)
    assert torch.equal(nested, next_token_logits(model, prompts, interventions=both))


@ONE
def test_two_writes_to_one_activation_are_refused(name: str):
    model, _ = prompts_of(name)
    v = Add(normal(D))
    with (
        pytest.raises(ValueError, match="two writes to one activation"),
        intervene(model, {resid_post(1): v, resid_pre(2): v}),
    ):
        pass
    with intervene(model, {resid_post(1): v}):
        with pytest.raises(ValueError, match="two writes to one activation"), intervene(model, {resid_pre(2): v}):
            pass
        with intervene(model, {resid_pre(1): v}):
            pass


def _enter(model: Any, *args: Any, **kwargs: Any) -> None:
    with intervene(model, *args, **kwargs):
        pass


@ONE
def test_interventions_that_cannot_work_are_refused_before_any_forward_pass(name: str):
    model, prompts = prompts_of(name)
    v = Add(normal(D))
    for site in (resid_mid(1), attn_pattern(1)):
        with pytest.raises(ValueError, match="can be read but not written"):
            _enter(model, {site: v})
    with pytest.raises(ValueError, match="expected a layer from 0 to 3"):
        _enter(model, {resid_post(9): v})
    with pytest.raises(ValueError, match="of width 5; expected 32"):
        _enter(model, {resid_post(1): Add(torch.ones(5))})
    with pytest.raises(ValueError, match="got 2 vectors; expected one or 3"):
        _enter(model, {resid_post(1): Add(normal(2, D))}, prompts=prompts)
    with pytest.raises(ValueError, match="expected the shape to stay"):
        _enter(model, {resid_post(1): lambda x: x[:, :0]})
    with pytest.raises(ValueError, match="without prompts"):
        _enter(model, {resid_post(1): v}, where="prompt")
    for k in (0, prompts.prompt_length + 1):
        with pytest.raises(ValueError, match=f"got where={k}"):
            _enter(model, {resid_post(1): v}, prompts=prompts, where=k)
    with (
        pytest.raises(ValueError, match="over 1 rows; expected 3"),
        intervene(model, {resid_post(1): v}, prompts=prompts),
    ):
        read(model, tokenize(model, ["cake"]), [resid_post(1)])


# -- logits of answers and generation ---------------------------------------------------------------------------------


@EVERY
def test_answer_logits_predict_each_answer_token(name: str):
    model, prompts = prompts_of(name, ANSWERS)
    logits = answer_logits(model, prompts)
    assert logits.shape[:2] == (3, prompts.tokens.shape[1] - prompts.prompt_length)
    begun = tokenize(model, TEXTS, answers=[row[:2].tolist() for row in prompts.tokens[:, prompts.prompt_length :]])
    assert torch.allclose(logits[:, 0], next_token_logits(model, begun), atol=1e-4)
    assert torch.allclose(logits[0, 1], answer_logits(model, begun)[0, 1], atol=1e-4)
    with pytest.raises(ValueError, match="without answers"):
        answer_logits(model, begun.prompts_only())


def uncached(model: Any, prompts: Prompts, steer: Add, where: Any, steps: int) -> list[list[int]]:
    """Greedy decoding that runs the whole sequence again for every token."""
    rows: list[list[int]] = [[] for _ in range(len(prompts))]
    now = prompts
    for _ in range(steps):
        tokens, mask = now.tokens, now.mask
        longer = Prompts(
            torch.cat([tokens, tokens[:, :1]], 1),
            torch.cat([mask, mask[:, :1] | True], 1),
            prompts.prompt_length,
            prompts.texts,
        )
        with torch.no_grad(), intervene(model, {resid_post(1): steer}, prompts=now, where=where):
            new = model(tokens, attention_mask=mask.long())[:, -1].argmax(-1)
        longer.tokens[:, -1] = new
        rows, now = [row + [int(t)] for row, t in zip(rows, new, strict=True)], longer
    return rows


def until_end(rows: list[list[int]], end: int) -> list[list[int]]:
    return [row[: row.index(end)] if end in row else row for row in rows]


@EVERY
@pytest.mark.parametrize("where", ["all", "prompt", "generated", 2])
def test_generation_under_the_cache_equals_generation_without(name: str, where: Any):
    model, prompts = prompts_of(name)
    steer = Add(normal(3, D, seed=3), strength=2.0)
    cached = generate_ids(model, prompts, {resid_post(1): steer}, where=where, max_new_tokens=6)
    assert cached == until_end(uncached(model, prompts, steer, where, 6), model.tokenizer.eos_token_id)
    assert any(cached)


@EVERY
def test_a_padded_batch_generates_what_its_rows_generate_alone(name: str):
    model, prompts = prompts_of(name)
    v = normal(3, D, seed=3)
    together = generate_ids(model, prompts, {resid_post(1): Add(v)}, where="prompt", max_new_tokens=6)
    for i, text in enumerate(TEXTS):
        steer = {resid_post(1): Add(v[i])}
        assert [together[i]] == generate_ids(model, tokenize(model, [text]), steer, where="prompt", max_new_tokens=6)


@pytest.fixture
def stops(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Prompts, list[list[int]], int]]:
    """A model whose end-of-sequence token is one that its first prompt would produce in mid-sentence."""
    model, prompts = prompts_of(request.getfixturevalue("name"))
    free = generate_ids(model, prompts, max_new_tokens=8)
    stop, before = free[0][1], model.tokenizer.eos_token_id
    model.tokenizer.eos_token_id = stop
    yield model, prompts, free, stop
    model.tokenizer.eos_token_id = before


@ONE
def test_rows_stop_at_their_end_and_all_stop_together(name: str, stops: tuple[Any, Prompts, list[list[int]], int]):
    model, prompts, free, stop = stops
    stopped = generate_ids(model, prompts, max_new_tokens=8)
    assert stopped == until_end(free, stop) and len(stopped[0]) <= 1


@ONE
def test_no_step_is_made_after_the_last_row_has_ended(name: str, stops: tuple[Any, Prompts, list[list[int]], int]):
    model, prompts, free, stop = stops
    passes = []
    handle = model.blocks[0].register_forward_pre_hook(lambda *_: passes.append(1))
    generate_ids(model, tokenize(model, TEXTS[:1]), max_new_tokens=8)
    handle.remove()
    assert len(passes) == free[0].index(stop) + 1 < 8


@ONE
def test_sampling_is_reproducible_and_goes_to_greedy_as_it_cools(name: str):
    model, prompts = prompts_of(name)

    def sample(seed: int, temperature: float) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return generate_ids(model, prompts, temperature=temperature, generator=generator, max_new_tokens=8)

    assert sample(0, 1.0) == sample(0, 1.0)
    assert len({str(sample(seed, 1.0)) for seed in range(4)}) > 1
    assert sample(0, 1e-4) == generate_ids(model, prompts, max_new_tokens=8)


@ONE
def test_generate_decodes_the_ids(name: str):
    model, prompts = prompts_of(name)
    ids = generate_ids(model, prompts, max_new_tokens=5)
    assert generate(model, prompts, max_new_tokens=5) == [
        model.tokenizer.decode(row, skip_special_tokens=True) for row in ids
    ]


@ONE
def test_generation_beyond_the_context_is_refused(name: str):
    model, prompts = prompts_of(name)
    longest = int(prompts.mask.sum(1).max())
    assert generate_ids(model, prompts, max_new_tokens=3)
    with pytest.raises(ValueError, match=f"ask for at most {64 - longest}"):
        generate_ids(model, prompts, max_new_tokens=65 - longest)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        generate_ids(model, prompts, max_new_tokens=0)


# -- loading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    architectures.hf_model("qwen2").save_pretrained(tmp_path)
    architectures.tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_loaded_folder_is_the_frozen_model(folder: Path, kind: type, capfd: pytest.CaptureFixture[str]):
    model: Any = load_model(kind(folder))
    assert capfd.readouterr() == ("", "")  # no progress bars
    prompts = tokenize(model, TEXTS[:1])
    assert torch.allclose(
        next_token_logits(model, prompts), architectures.hf_model("qwen2")(prompts.tokens).logits[:, -1], atol=1e-4
    )
    assert not any(w.requires_grad for w in model.original_model.parameters()) and not model.training
    assert load_model(folder, dtype=torch.bfloat16).cfg.dtype == torch.bfloat16


def _corrupt(folder: Path) -> None:
    model = architectures.hf_model("qwen2")
    model.model.layers[2].mlp.up_proj.weight.data[3, 4] = float("nan")
    model.save_pretrained(folder)


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _lose_a_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _ask_for_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (_corrupt, "NaN or infinite values in weight model.layers.2.mlp.up_proj.weight"),
        (_pickle, "pickled weights only"),
        (_lose_a_shard, "without model-00001-of-00002.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "without model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "without config.json"),
        (lambda folder: (folder / "config.json").write_text("{}"), "cannot be read"),
        (_ask_for_code, "runs code of its own"),
    ],
)
def test_a_spoilt_folder_is_refused_in_one_line(folder: Path, spoil: Any, complaint: str):
    spoil(folder)
    with pytest.raises(ValueError, match=complaint) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value) and "; expected" in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", Path("nowhere")])
def test_a_folder_that_does_not_exist_is_named(name: str | Path):
    with pytest.raises(ValueError, match="nowhere.*does not exist; expected a folder"):
        load_model(name)


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("nobody/nothing", "got model 'nobody/nothing', .* no hub was reachable; expected .*; pass the folder"),
        ("not a name!", "got model 'not a name!', which is neither a folder nor a name on the hub; .* spelling"),
    ],
)
def test_an_unknown_name_says_what_to_do(name: str, complaint: str, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=complaint) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_the_embedded_models_have_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()  # a folder of that name is reached with ./embedded
    first, sibling = load_model(), load_model("embedded/naive")
    assert torch.equal(next(weights(load_model("embedded"))), next(weights(first)))
    assert folder_of("embedded/naive") == folder_of(None) / "naive" and folder_of("gpt2") == Path("gpt2")
    assert not torch.equal(next(weights(first)), next(weights(sibling)))
    assert texts_of("embedded/naive").natural and model_hash("embedded/naive") != model_hash(None) == model_hash(
        "embedded"
    )
