"""What an explorer shows of each vector of a family: presence at each token, changes of attention, nearest tokens.

All of it is measured on the run's model and recorded in rows and shards, so that the page needs no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.edits import Add
from mi_ortho.interventions.sites import Site, attn_pattern
from mi_ortho.model import Pieces, Prompts, Written, encode, intervene, pieces, read, readout
from mi_ortho.runs.directory import Run
from mi_ortho.runs.rows import stage
from mi_ortho.steering import Setting, unsteered_completions
from mi_ortho.studies.family.finished import MATCHES

DRAWS = 64  # random vectors that the nearest tokens are compared with
LONGEST = 64  # pieces of the prompt, from its end, whose attention is kept

Named = tuple[str, int]  # match ("base" for the base vector) and index


@dataclass(frozen=True, eq=False)
class Explored:
    """A family that is explored: its run and setting, and what all vectors share.

    Attributes:
        run: where rows and shards are kept.
        setting: model, site, positions.
        prompt: the shown prompt.
        natural: a prompt on which the model shows the behaviour without steering; None if there is none.
        layer: whose attention patterns are saved.
        nearest: tokens named at either end.
    """

    run: Run
    setting: Setting
    prompt: str
    natural: str | None
    layer: int
    nearest: int = 8

    @property
    def layers(self) -> int:
        """How many blocks the model has."""
        return int(self.setting.model.cfg.n_layers)

    @cached_property
    def tokens(self) -> Tensor | None:
        """Unit vectors along each token's readout minus the mean over tokens, which changes no probability.

        (d_model, d_vocab); None for a model that has no such matrix.
        """
        try:
            matrix = readout(self.setting.model).matrix()
        except ValueError:
            return None
        return torch.nn.functional.normalize(matrix - matrix.mean(1, keepdim=True), dim=0)


def chosen_vectors(sizes: Mapping[str, int], limit: int) -> list[Named]:
    """The base and at most about `limit` vectors, evenly spaced in each match in proportion to its size.

    >>> chosen_vectors({"kl": 100, "activation": 50}, 6)[1:]
    [('kl', 0), ('kl', 33), ('kl', 66), ('kl', 99), ('activation', 0), ('activation', 49)]
    """
    total = sum(sizes.values())
    names: list[Named] = [("base", 0)]
    for match in reversed(MATCHES):
        size = sizes.get(match, 0)
        count = size if total <= limit else min(size, max(1, round(limit * size / total)))
        places = torch.linspace(0, size - 1, count).int().tolist() if count else []
        names += [(match, index) for index in dict.fromkeys(places)]
    return names


def explore_frame(
    explored: Explored, plain: Sequence[Tensor], vectors: Float[Tensor, "n d_model"], named: Sequence[Named]
) -> None:
    """Record what all vectors share: the prompt's pieces and attention, the natural text and presence on it, the null.

    Args:
        explored: the family.
        plain: its `unsteered_attention`.
        vectors: all that are shown.
        named: their match and index.
    """
    stage(
        explored.run, "frame", lambda: _frame(explored, plain, vectors, named), old=lambda row: row["kind"] == "frame"
    )


def _frame(
    explored: Explored, plain: Sequence[Tensor], vectors: Float[Tensor, "n d_model"], named: Sequence[Named]
) -> list[dict[str, Any]]:
    prompts = explored.setting.prompts([explored.prompt])
    prompt_pieces = _pieces(explored, prompts)
    tensors = {"attention": _last_pieces(prompt_pieces, plain[explored.layer])}
    natural = _natural(explored, vectors)
    explored.run.save_tensors("frame", {**tensors, **({"natural": natural[1]} if natural else {})})
    tokens = explored.tokens
    width = vectors.shape[1]
    return [
        {
            "kind": "frame",
            "prompt": explored.prompt,
            "layer": explored.layer,
            "layers": explored.layers,
            "pieces": list(prompt_pieces.texts[-LONGEST:]),
            "left_out": max(0, len(prompt_pieces) - LONGEST),
            "natural": natural[0] if natural else None,
            "natural_start": natural[2] if natural else None,
            "vectors": [list(name) for name in named],
            "d_model": width,
            "null_cosine": None if tokens is None else _null_cosine(tokens, width),
        }
    ]


def explore_vector(
    explored: Explored, plain: Sequence[Tensor], named: Named, vector: Float[Tensor, " d_model"], text: str, place: int
) -> None:
    """Record one vector: presence on its own completion, change of attention, nearest tokens.

    Args:
        explored: the family.
        plain: its `unsteered_attention`.
        named: match and index.
        vector: the vector.
        text: its completion of the shown prompt, on which presence is read without steering.
        place: how many vectors of its match are shown before it; the number of its shard.
    """
    match, index = named
    prompts = explored.setting.prompts([explored.prompt])
    prompt_pieces = _pieces(explored, prompts)
    steered = _attention(explored, prompts, vector)
    changed = [(0.5 * (b - a).abs().sum(-1).mean(-1)).tolist() for a, b in zip(plain, steered)]
    difference = _last_pieces(prompt_pieces, steered[explored.layer]) - _last_pieces(
        prompt_pieces, plain[explored.layer]
    )
    explored.run.save_tensors(f"drawn/{match}/{place:06d}", {"vector": difference.half()})
    words, start, present = _presence(explored, explored.prompt, text, vector[None])
    explored.run.record(
        {
            "kind": "vector",
            "match": match,
            "index": index,
            "pieces": list(words),
            "start": start,
            "presence": [round(value, 4) for value in present[:, 0].tolist()],
            "attention_change": [[round(value, 4) for value in layer] for layer in changed],
            **_nearest(explored, vector),
        }
    )


def unsteered_attention(explored: Explored) -> list[Float[Tensor, "head query_pos key_pos"]]:
    """Attention of every layer on the prompt without steering, the first layer first."""
    return _attention(explored, explored.setting.prompts([explored.prompt]), None)


def _pieces(explored: Explored, prompts: Prompts) -> Pieces:
    return pieces(explored.setting.model.tokenizer, prompts.tokens[0].tolist())


def _last_pieces(
    prompt_pieces: Pieces, pattern: Float[Tensor, "head query_pos key_pos"]
) -> Float[Tensor, "head query key"]:
    return prompt_pieces.attention(pattern)[:, -LONGEST:, -LONGEST:]


def _attention(
    explored: Explored, prompts: Prompts, vector: Float[Tensor, " d_model"] | None
) -> list[Float[Tensor, "head query_pos key_pos"]]:
    """Every layer's attention on the prompt, with `vector` added unless it is None."""
    setting = explored.setting
    sites: list[Site] = [attn_pattern(layer) for layer in range(explored.layers)]
    if vector is None:
        patterns = read(setting.model, prompts, sites)
    else:
        with intervene(setting.model, {setting.site: Add(vector)}, prompts=prompts, where=setting.where):
            patterns = read(setting.model, prompts, sites)
    return [patterns[site][0].float().cpu() for site in sites]


def _natural(
    explored: Explored, vectors: Float[Tensor, "n d_model"]
) -> tuple[list[str], Float[Tensor, "piece n"], int] | None:
    """A prompt that shows the behaviour, with its unsteered completion: pieces, presence, start of the completion.

    None if there is no such prompt, or its completion is empty.
    """
    if explored.natural is None:
        return None
    done = unsteered_completions(explored.setting, [explored.natural], vectors.shape[1], vectors.device)[0]
    if not done.text.strip():
        return None
    words, start, present = _presence(explored, explored.natural, Written(done.text, done.ids), vectors)
    return list(words), present, start


def _presence(
    explored: Explored, prompt: str, text: str, vectors: Float[Tensor, "n d_model"]
) -> tuple[tuple[str, ...], int, Float[Tensor, "piece n"]]:
    """Pieces of prompt and text, the index where the text starts, and cos(h, θ) at each piece without steering."""
    setting = explored.setting
    prompts = tokens_of(setting, prompt, text)
    residual = read(setting.model, prompts, [setting.site])[setting.site][0].float()
    normed = torch.nn.functional.normalize
    cosines = einsum(normed(residual, dim=-1), normed(vectors.to(residual), dim=-1), "pos d, n d -> pos n")
    ids, edge = prompts.tokens[0].tolist(), prompts.prompt_length
    tokenizer = setting.model.tokenizer
    before, after = pieces(tokenizer, ids[:edge]), pieces(tokenizer, ids[edge:])
    whole = Pieces(before.texts + after.texts, before.sizes + after.sizes)
    return whole.texts, len(before), whole.mean(cosines).cpu()


def tokens_of(setting: Setting, prompt: str, text: str) -> Prompts:
    """A prompt with a recorded answer, tokenised; an answer of only white space is dropped.

    A `Written` text keeps the tokens that the model wrote; texts of older runs are tokenised again.
    """
    if not text.strip():
        return setting.prompts([prompt])
    ids = text.ids if isinstance(text, Written) else encode(setting.model.tokenizer, text)
    return setting.prompts([prompt], [list(ids)])


def _nearest(explored: Explored, vector: Float[Tensor, " d_model"]) -> dict[str, Any]:
    """The tokens whose centred unembedding has the largest and the smallest cosine with a vector."""
    tokens = explored.tokens
    if tokens is None:
        return {"nearest": None, "farthest": None}
    cosines = _cosines(tokens, vector.to(tokens)[None])[0]
    decode = explored.setting.model.tokenizer.decode
    count = min(explored.nearest, len(cosines))

    def spelled(ids: Any) -> list[list[object]]:
        return [[decode([int(token)]), round(float(cosines[token]), 4)] for token in ids]

    return {"nearest": spelled(cosines.topk(count).indices), "farthest": spelled((-cosines).topk(count).indices)}


def _cosines(tokens: Float[Tensor, "d_model d_vocab"], vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n token"]:
    return torch.nn.functional.normalize(vectors, dim=-1) @ tokens


def _null_cosine(tokens: Float[Tensor, "d_model d_vocab"], width: int) -> float:
    """The median over random directions of the largest cosine with any token: the null of the nearest tokens."""
    directions = torch.randn(DRAWS, width, generator=torch.Generator().manual_seed(0)).to(tokens)
    return float(_cosines(tokens, directions).max(-1).values.median())
