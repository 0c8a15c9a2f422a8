"""Passages: the model's own answers and real text, as tokens with their source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_ortho.behaviours import Modes, classify
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import Model, Prompts, encode, generate_ids, ordinary, read, start_ids, tokenize
from mi_ortho.studies.presence.library import library_pairs, library_prose
from mi_ortho.studies.presence.requests import Request

ROWS = 64  # sequences of one forward pass
GROUPS = {
    "code_own": "code the model writes",
    "english_own": "English it writes on the same topics",
    "prose_own": "everything else it writes",
    "code_real": "functions of the standard library",
    "english_real": "what their docstrings say",
    "prose_real": "documentation and licence",
}
NOT_ENGLISH = ("code", "json")


@dataclass(frozen=True)
class Passage:
    """A sequence of tokens to read.

    Attributes:
        index: its number in the run.
        group: one of `GROUPS`.
        topic: passages of one topic are comparable; -1 for none.
        title: the prompt it answers, or where it comes from.
        prompt: the user message; None for text read without a chat template.
        ids: the tokens that are read.
        text: the decoded tokens.
        mode: the behaviour it shows.
        kept: whether it fits its group; a prompt for code must be answered with code.
    """

    index: int
    group: str
    topic: int
    title: str
    prompt: str | None
    ids: tuple[int, ...]
    text: str
    mode: str
    kept: bool

    def row(self) -> dict[str, object]:
        """A flat record."""
        return {"kind": "passage", **asdict(self)}


def passage_of(row: Mapping[str, Any]) -> Passage:
    """The passage of a record."""
    fields: dict[str, Any] = {name: row[name] for name in Passage.__dataclass_fields__}
    fields["ids"] = tuple(fields["ids"])
    return Passage(**fields)


def write_passages(
    model: Model, modes: Modes, requests: Sequence[Request], first: int, *, system: str | None, max_new_tokens: int
) -> Iterator[Passage]:
    """The model's greedy unsteered answers; the first gets the number `first`."""
    for start in range(0, len(requests), ROWS):
        part = requests[start : start + ROWS]
        prompts = tokenize(model, [request.prompt for request in part], system=system)
        for k, (request, ids) in enumerate(zip(part, generate_ids(model, prompts, max_new_tokens=max_new_tokens))):
            text = model.tokenizer.decode(ids, skip_special_tokens=True)
            mode = classify(text, modes)
            fits = mode == "code" if request.group == "code_own" else mode not in NOT_ENGLISH
            yield Passage(
                first + start + k,
                request.group,
                request.topic,
                request.prompt,
                request.prompt,
                tuple(ids),
                text,
                mode,
                fits and bool(ids),
            )


def real_passages(model: Model, n: int, tokens: int, seed: int, first: int) -> list[Passage]:
    """Functions of the standard library, their docstrings (same topic), and other prose, up to `tokens` tokens each."""
    pairs, prose = library_pairs(n, seed), library_prose(n, seed)
    texts = [("code_real", k, pair.name, pair.code) for k, pair in enumerate(pairs)]
    texts += [("english_real", k, pair.name, pair.english) for k, pair in enumerate(pairs)]
    texts += [("prose_real", -1, "documentation or licence", text) for text in prose]
    passages = []
    for k, (group, topic, title, text) in enumerate(texts):
        ids = encode(model.tokenizer, text)[:tokens]
        excerpt = model.tokenizer.decode(ids)
        mode = "code" if group == "code_real" else "prose"
        passages.append(Passage(first + k, group, topic, title, None, tuple(ids), excerpt, mode, len(ids) > 8))
    return passages


def read_passages(
    model: Model, passages: Sequence[Passage], layers: Sequence[int], *, system: str | None = None
) -> Iterator[list[tuple[Passage, dict[int, Float[Tensor, "samples d_model"]]]]]:
    """Batches of passages, each with the residual stream (tokens, d_model) after each layer, in float32.

    Answers are read after their prompt, which gives the activations the model had while writing. The first token of
    other texts is left out: it attends only to itself, and in many models its norm is far larger.
    """
    for batch in read_ordinary(model, passages, layers, system=system):
        yield [(one, activations) for one, activations, _ in batch]


def read_ordinary(
    model: Model, passages: Sequence[Passage], layers: Sequence[int], *, system: str | None = None
) -> Iterator[list[tuple[Passage, dict[int, Float[Tensor, "samples d_model"]], Bool[Tensor, " samples"]]]]:
    """As `read_passages`, with a mask of the tokens that are not attention sinks (of all, where all of them are)."""
    sites = {layer: resid_post(layer) for layer in layers}
    ordered = sorted(passages, key=lambda one: (one.prompt is None, len(one.ids)))
    for start in range(0, len(ordered), ROWS):
        for raw in (False, True):
            part = [one for one in ordered[start : start + ROWS] if (one.prompt is None) == raw]
            if not part:
                continue
            prompts = _raw(model, part) if raw else _answers(model, part, system)
            activations, usual = read(model, prompts, list(sites.values())), ordinary(model, prompts)
            places = [(row, _columns(prompts, one)) for row, one in enumerate(part)]
            yield [
                (
                    one,
                    {layer: activations[site][place].float() for layer, site in sites.items()},
                    usual[place] if bool(usual[place].any()) else torch.ones_like(usual[place]),
                )
                for one, place in zip(part, places, strict=True)
            ]


def read_tokens(passage: Passage) -> tuple[int, ...]:
    """The tokens whose activations `read_passages` gives, in order."""
    return passage.ids if passage.prompt is not None else passage.ids[1:]


def _answers(model: Model, part: Sequence[Passage], system: str | None) -> Prompts:
    texts = [str(one.prompt) for one in part]
    return tokenize(model, texts, system=system, answers=[list(one.ids) for one in part])


def _raw(model: Model, part: Sequence[Passage]) -> Prompts:
    """Texts without a chat template, padded on the right, after the start token if the model has one."""
    start = start_ids(model.tokenizer)
    width = max(len(one.ids) for one in part) + len(start)
    pad = model.tokenizer.pad_token_id or 0
    rows = [[*start, *one.ids] + [pad] * (width - len(start) - len(one.ids)) for one in part]
    real = [[k < len(start) + len(one.ids) for k in range(width)] for one in part]
    device = tokenize(model, ["a"], template=False).tokens.device
    return Prompts(
        torch.tensor(rows, device=device),
        torch.tensor(real, device=device),
        len(start),
        tuple(one.text for one in part),
    )


def _columns(prompts: Prompts, passage: Passage) -> slice:
    skipped = 0 if passage.prompt is not None else 1
    return slice(prompts.prompt_length + skipped, prompts.prompt_length + len(passage.ids))
