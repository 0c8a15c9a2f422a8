"""Random-weight Qwen2 models behind a TransformerBridge, and a prompt of random tokens."""

from typing import Any

import torch

from mi_ortho.model import Prompts, freeze

TOKENS = 37  # of the published prompt


def random_qwen2(
    d_model: int, n_layers: int, *, d_mlp: int, heads: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """A Qwen2 with default initialisation and its block weights doubled, frozen.

    As initialised, small random models are nearly linear in a steering vector and have no second orthogonal one;
    doubling gives an amplification and a family like those of trained models.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=512,
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for name, weight in network.named_parameters():
            if "layers" in name and weight.ndim == 2:
                weight.data *= 2
    model = TransformerBridge.boot_transformers(
        "random-qwen2", hf_model=network, tokenizer=_tokenizer(), device=device, dtype=dtype
    )
    return freeze(model)


def prompt(device: str = "cpu", n: int = 1) -> Prompts:
    """Prompts of random tokens, one by default, of equal length."""
    tokens = torch.randint(2, 512, (n, TOKENS), generator=torch.Generator().manual_seed(1)).to(device)
    return Prompts(tokens, torch.ones_like(tokens, dtype=torch.bool), TOKENS, ("random tokens",) * n)


def trainable(model: Any, yes: bool) -> None:
    """Weights as they are shipped (asking for gradients), or frozen, with no gradients left over."""
    for weight in model.original_model.parameters():
        weight.requires_grad_(yes)
        weight.grad = None


def slice_flop(model: Any, blocks: int) -> float:
    """Floating-point operations that no step can avoid: forward, and backward to the input, of the sliced weights.

    For one prompt and one steering vector.
    """
    weights = sum(p.numel() for n, p in model.original_model.named_parameters() if "layers.0." in n and p.ndim == 2)
    return 4.0 * weights * blocks * TOKENS


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({str(i): i for i in range(512)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="0", eos_token="1", unk_token="0")
    # TransformerLens otherwise loads a tokenizer without such a token a second time, by name
    tokenizer.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
    return tokenizer
