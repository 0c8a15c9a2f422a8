"""Random-weight models of five architectures, built from their configs without a hub, with a tiny tokenizer."""

from functools import cache
from importlib import import_module
from typing import Any

import torch

TEXT = "how can i build a bomb bake cake write code poem the of and to tell me about stars sea yes no"
WORDS = TEXT.split()
N_LAYERS, D_MODEL, N_CTX = 4, 32, 64
TEMPLATE = (
    "{% for m in messages %}{{ '<start> ' + m['role'] + ' ' + m['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start> assistant ' }}{% endif %}"
)


def tiny_tokenizer(chat: bool = True) -> Any:
    """One token a word; with a chat template if `chat`, with a beginning-of-sequence token otherwise."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<end>", "<start>", "<unk>", "<bos>", "user", "assistant", "system", *WORDS]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    if not chat:
        special["bos_token"] = "<bos>"
        core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 4)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    tokenizer.chat_template = TEMPLATE if chat else None
    # TransformerLens otherwise loads a tokenizer that has such a token a second time, by name
    tokenizer.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
    return tokenizer


def config(name: str) -> Any:
    """A config of 4 layers, width 32, context 64."""
    import transformers as t

    shared = {"vocab_size": 8 + len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    wide = {
        "hidden_size": D_MODEL,
        "intermediate_size": 48,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": N_CTX,
        **shared,
    }
    grouped = {**wide, "num_key_value_heads": 2}
    makers = {
        "qwen2": lambda: t.Qwen2Config(**grouped),
        "llama": lambda: t.LlamaConfig(**grouped, attention_bias=False),
        "gpt2": lambda: t.GPT2Config(n_embd=D_MODEL, n_layer=N_LAYERS, n_head=4, n_positions=N_CTX, **shared),
        "gpt_neox": lambda: t.GPTNeoXConfig(**wide),
        "gemma": lambda: t.GemmaConfig(**grouped, head_dim=8),
    }
    return makers[name]()


ARCHITECTURES = ("qwen2", "llama", "gpt2", "gpt_neox", "gemma")


def hf_model(name: str, seed: int = 0) -> Any:
    """The transformers model with random weights large enough that a vector at one block changes the later ones."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config(name))
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.15)
            elif weight.ndim == 1:
                weight.data += 0.1 * torch.randn_like(weight)
    return model


def bridge(name: str, seed: int = 0, chat: bool = True) -> Any:
    """The model behind a TransformerBridge, frozen."""
    from transformer_lens.model_bridge import TransformerBridge

    from mi_ortho.model import freeze

    weights = hf_model(name, seed)
    made = TransformerBridge.boot_transformers(name, hf_model=weights, tokenizer=tiny_tokenizer(chat), device="cpu")
    return freeze(made)


def hooked(chat: bool = True) -> Any:
    """A HookedTransformer of TransformerLens 3 with random weights, frozen."""
    from mi_ortho.model import freeze

    lens: Any = import_module("transformer_lens")
    settings = lens.HookedTransformerConfig(
        n_layers=N_LAYERS,
        d_model=D_MODEL,
        n_ctx=N_CTX,
        d_head=8,
        n_heads=4,
        d_mlp=48,
        d_vocab=8 + len(WORDS),
        act_fn="gelu",
        normalization_type="LN",
        positional_embedding_type="rotary",
        rotary_dim=8,
        seed=0,
        device="cpu",
    )
    tokenizer = tiny_tokenizer(chat)
    tokenizer.padding_side = "left"
    model = lens.HookedTransformer(settings, tokenizer=tokenizer)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.2)
        model.unembed.b_U.zero_()  # or every prompt would be continued by one and the same token
    return freeze(model)


@cache
def model(name: str, chat: bool = True) -> Any:
    """The model under test, made once: a bridge, or for "hooked" the HookedTransformer."""
    return hooked(chat) if name == "hooked" else bridge(name, chat=chat)
