"""Random-weight models of the families the bridge loads, built from configs without a hub, with a tiny tokenizer."""

from functools import cache
from importlib import import_module
from typing import Any

import torch

TEXT = "how can i build a bomb bake cake write code poem the of and to tell me about stars sea yes no"
WORDS = TEXT.split()
SPECIAL = ["<pad>", "<end>", "<start>", "<unk>", "<bos>", "user", "assistant", "system"]
N_LAYERS, D_MODEL, N_CTX = 4, 32, 64
TEMPLATE = (
    "{% for m in messages %}{{ '<start> ' + m['role'] + ' ' + m['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start> assistant ' }}{% endif %}"
)


def tiny_tokenizer(chat: bool = True) -> Any:
    """One token a word; with a chat template if `chat`, with a beginning-of-sequence token otherwise."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *WORDS]
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


def config(name: str, layers: int = N_LAYERS) -> Any:
    """A config of a few layers, width 32, context 64, multipliers, soft caps and windows that show if missed."""
    t: Any = import_module("transformers")
    shared = {"vocab_size": 8 + len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    wide = {
        "hidden_size": D_MODEL,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": N_CTX,
        **shared,
    }
    grouped = {**wide, "num_key_value_heads": 2}
    headed = {**grouped, "head_dim": 8}
    windowed = {**headed, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * (layers // 2)}
    capped = {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0}
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 100.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    sparse = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
    multiplied = {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.5,
    }
    short = {"n_embd": D_MODEL, "n_layer": layers, "n_head": 4, "n_positions": N_CTX, **shared}
    opt = {**wide, "ffn_dim": 48}
    makers = {
        "qwen2": lambda: t.Qwen2Config(**grouped),
        "llama": lambda: t.LlamaConfig(**grouped, attention_bias=False),
        "gpt2": lambda: t.GPT2Config(**short),
        "gpt_neox": lambda: t.GPTNeoXConfig(**wide),
        "gemma": lambda: t.GemmaConfig(**headed),
        "qwen3": lambda: t.Qwen3Config(**headed),
        "llama3": lambda: t.LlamaConfig(**grouped, rope_parameters=scaled),
        "mistral": lambda: t.MistralConfig(**headed, sliding_window=6),
        "gemma2": lambda: t.Gemma2Config(**windowed, **capped),
        "gemma3": lambda: t.Gemma3TextConfig(**windowed, **capped),
        "phi3": lambda: t.Phi3Config(**grouped),
        "olmo2": lambda: t.Olmo2Config(**grouped),
        "glm4": lambda: t.Glm4Config(**headed),
        "granite": lambda: t.GraniteConfig(**grouped, **multiplied),
        "cohere": lambda: t.CohereConfig(**grouped, logit_scale=0.25),
        "stablelm": lambda: t.StableLmConfig(**grouped, partial_rotary_factor=0.5, use_qkv_bias=True),
        "falcon": lambda: t.FalconConfig(**wide, parallel_attn=True, multi_query=True),
        "bloom": lambda: t.BloomConfig(hidden_size=D_MODEL, n_layer=layers, n_head=4, **shared),
        "opt": lambda: t.OPTConfig(**opt, word_embed_proj_dim=D_MODEL),
        "opt_narrow": lambda: t.OPTConfig(**opt, word_embed_proj_dim=16),
        "gptj": lambda: t.GPTJConfig(**short, rotary_dim=4),
        "smollm3": lambda: t.SmolLM3Config(**grouped, no_rope_layer_interval=2),
        "xglm": lambda: t.XGLMConfig(
            d_model=D_MODEL, ffn_dim=48, num_layers=layers, attention_heads=4, **wide_of(wide)
        ),
        "mixtral": lambda: t.MixtralConfig(**headed, num_local_experts=4, num_experts_per_tok=2),
        "qwen3_moe": lambda: t.Qwen3MoeConfig(**headed, **sparse),
        "gpt_oss": lambda: t.GptOssConfig(**windowed, num_local_experts=4, num_experts_per_tok=2),
        "qwen3_next": lambda: t.Qwen3NextConfig(
            **headed,
            **sparse,
            shared_expert_intermediate_size=24,
            linear_num_value_heads=4,
            linear_num_key_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=["linear_attention", "full_attention"] * (layers // 2),
        ),
        "mamba": lambda: t.MambaConfig(hidden_size=D_MODEL, num_hidden_layers=layers, state_size=4, **shared),
    }
    return makers[name]()


def wide_of(wide: dict[str, Any]) -> dict[str, Any]:
    return {key: wide[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id", "eos_token_id")}


ARCHITECTURES = ("qwen2", "llama", "gpt2", "gpt_neox", "gemma")  # what the detailed tests run on
FAMILIES = (
    *ARCHITECTURES,
    *("qwen3", "llama3", "mistral", "gemma2", "gemma3", "phi3", "olmo2", "glm4", "granite", "cohere", "stablelm"),
    *("falcon", "bloom", "opt", "opt_narrow", "gptj", "smollm3", "xglm"),
    *("mixtral", "qwen3_moe", "gpt_oss", "qwen3_next", "mamba"),
)


def hf_model(name: str, seed: int = 0, layers: int = N_LAYERS) -> Any:
    """The transformers model with random weights large enough that a vector at one block changes the later ones."""
    from transformers import AutoModelForCausalLM

    spread = 0.1 if name in ARCHITECTURES else 0.3  # of norm gains and biases
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config(name, layers), attn_implementation="eager", experts_implementation="eager"
        )
        model.config.architectures = [type(model).__name__]  # as in the config.json of a folder
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.15)
            elif weight.ndim == 1:
                weight.data += spread * torch.randn_like(weight)
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
