"""The network: a Qwen2 whose residual writes are scaled by depth while training."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from .lexicon import THINGS
from .recipe import Recipe

NOUN, FORM = "noun_shared", "form_shared"
N_FORMS = 3


def qwen2_config(recipe: Recipe) -> Qwen2Config:
    """The Hugging Face configuration of the recipe's network."""
    return Qwen2Config(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_ff,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )


def new_network(recipe: Recipe) -> Qwen2ForCausalLM:
    """A network with weights drawn from the recipe's seed; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = Qwen2ForCausalLM(qwen2_config(recipe))
    model.register_parameter(NOUN, nn.Parameter(torch.zeros(len(THINGS), recipe.d_model)))
    model.register_parameter(FORM, nn.Parameter(torch.zeros(N_FORMS, recipe.d_model)))
    return model


def write_scales(recipe: Recipe) -> list[float]:
    """The factor on each block's writes to the residual stream."""
    return [recipe.write_scale * recipe.write_growth**layer for layer in range(recipe.n_layers)]


def scale_writes(model: Qwen2ForCausalLM, recipe: Recipe) -> None:
    """Multiply both writes of every block by its factor in the forward pass (until `fold_writes`)."""
    blocks: Any = model.model.layers
    for block, scale in zip(blocks, write_scales(recipe), strict=True):
        for linear in (block.self_attn.o_proj, block.mlp.down_proj):
            linear.register_forward_hook(lambda module, args, out, s=scale: out * s)


class SharedForms:
    """A noun's embedding is the sum of a part of its own, a part of the noun and a part of the written form.

    The forms are " kite", "kite" and " Kite". Why: an answer often needs another form of the noun than the request had;
    with shared parts, copying the noun and choosing its form are learned apart, and each from every noun. `fold` adds
    the shared parts to the plain embedding.
    """

    def __init__(self, model: Qwen2ForCausalLM, forms: Tensor) -> None:
        self.model, self.forms = model, forms.to(model.device)  # (noun, form) token ids
        nouns, kinds = torch.meshgrid(*map(torch.arange, forms.shape), indexing="ij")
        self.noun_of, self.form_of = (torch.full((model.config.vocab_size,), -1) for _ in range(2))
        self.noun_of[forms], self.form_of[forms] = nouns, kinds
        self.noun_of, self.form_of = self.noun_of.to(model.device), self.form_of.to(model.device)
        embed: Any = model.model.embed_tokens
        embed.register_forward_hook(lambda module, args, out: out + self.part(args[0]))

    def part(self, tokens: Tensor) -> Tensor:
        """The shared parts of each token's embedding, zero where the token is no noun."""
        nouns, forms = self.noun_of[tokens], self.form_of[tokens]
        noun, form = self.model.get_parameter(NOUN), self.model.get_parameter(FORM)
        return (noun[nouns.clamp(min=0)] + form[forms.clamp(min=0)]) * (nouns >= 0).unsqueeze(-1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits of final hidden states, the shared parts included."""
        noun, form = hidden @ self.model.get_parameter(NOUN).T, hidden @ self.model.get_parameter(FORM).T
        shared = (noun.unsqueeze(-1) + form.unsqueeze(-2)).flatten(-2)
        return self.model.lm_head(hidden).index_add(-1, self.forms.flatten(), shared)

    @torch.no_grad()
    def fold(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """`weights` without the shared parts as parameters of their own, and with them in the embedding."""
        key = "model.embed_tokens.weight"
        everything = torch.arange(len(self.noun_of), device=self.noun_of.device)
        rest = {name: weight for name, weight in weights.items() if name not in (NOUN, FORM)}
        return rest | {key: weights[key] + self.part(everything)}


@torch.no_grad()
def fold_writes(weights: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Weights with each block's write factor folded in: a plain Qwen2 that computes the same."""
    folded = dict(weights)
    for layer, scale in enumerate(write_scales(recipe)):
        for linear in ("self_attn.o_proj", "mlp.down_proj"):
            key = f"model.layers.{layer}.{linear}.weight"
            folded[key] = folded[key] * scale
    return folded


class Offset:
    """Adds a constant random vector to one block's output; why: so that behaviour survives random displacement.

    Every conversation gets its own direction and a norm drawn from U(0, `largest`) times its mean residual norm. Half
    of the conversations are displaced at all positions, half at the prompt's only.
    """

    def __init__(self, model: Qwen2ForCausalLM, largest: float) -> None:
        self.largest, self.layer = largest, -1
        blocks: Any = model.model.layers
        for index, block in enumerate(blocks):
            block.register_forward_hook(
                lambda module, args, out, i=index: self._displace(out) if i == self.layer else None
            )

    def draw(self, prompt: Tensor, generator: torch.Generator, n_layers: int, d_model: int) -> None:
        """Choose layer, directions and norms for the next forward pass; `prompt` marks prompt tokens (batch, pos)."""
        rows = prompt.shape[0]
        self.layer = int(torch.randint(n_layers, (), generator=generator)) if self.largest > 0 else -1
        noise = torch.randn(rows, 1, d_model, generator=generator)
        self.vector = (
            noise / noise.norm(dim=-1, keepdim=True) * torch.rand(rows, 1, 1, generator=generator) * self.largest
        )
        everywhere = torch.rand(rows, 1, generator=generator) < 0.5
        self.mask = (prompt | everywhere).unsqueeze(-1)

    def _displace(self, out: Tensor) -> Tensor:
        # The first token is left out of the mean: attention sinks make it atypically large.
        size = out[:, 1:].detach().norm(dim=-1).mean(1)[:, None, None]
        return out + (self.mask.to(out.device) * self.vector.to(out)) * size
