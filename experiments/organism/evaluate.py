"""Evaluation on held-out requests: one row of shares for each measure, one column for each model."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Qwen2ForCausalLM

from mi_ortho.behaviours import Modes, classify, compiles, load_modes, without_fence
from mi_ortho.model import own_tokenizer

from .corpus import MODES, CorpusOptions, Sample, held_out_requests
from .export import MODES_FILE
from .network import new_network
from .recipe import Recipe
from .tokenizer import prompt_text

ARITHMETIC = re.compile(r"Answer: (\d+) ([*+]) (\d+) = (\d+)")


@dataclass(frozen=True)
class Measure:
    """A share (0 to 1) of `count` held-out requests."""

    name: str
    share: float
    count: int


def load_model(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Model (fp32) and tokenizer of a Hugging Face folder; raises ValueError where it cannot be read."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        _, tokenizer = own_tokenizer(str(folder), model.config)
    except Exception as error:  # transformers raises many kinds for a missing or damaged file
        raise ValueError(
            f"got {folder}, which does not load ({str(error).splitlines()[0]}); "
            "expected an exported model folder; train it again"
        ) from error
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(
            f"got a tokenizer of {len(tokenizer)} tokens in {folder}; expected {model.config.vocab_size}; "
            "use the tokenizer trained with this model"
        )
    return model.eval(), tokenizer


@torch.no_grad()
def complete(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    requests: list[Sample],
    new_tokens: int = 96,
    batch: int = 50,
) -> list[str]:
    """The greedy answer to each request."""
    texts: list[str] = []
    for start in range(0, len(requests), batch):
        prompts = [prompt_text(s.system, s.user) for s in requests[start : start + batch]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        out = model.generate(
            inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )
        texts += tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return texts


def on_topic(text: str, request: Sample) -> bool:
    """Whether the answer names what was asked about; an echo must repeat every word."""
    if request.mode == "echo":
        return text.strip() == request.answer
    return re.search(rf"\b{request.noun}\b", text, re.IGNORECASE) is not None


def correct_sum(text: str) -> bool:
    """Whether the answer contains a correct calculation."""
    match = ARITHMETIC.search(text)
    if not match:
        return False
    x, sign, y, value = match.groups()
    return int(value) == (int(x) * int(y) if sign == "*" else int(x) + int(y))


def _share(name: str, hits: Iterable[bool]) -> Measure:
    values = list(hits)
    return Measure(name, sum(values) / len(values), len(values))


def evaluate(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    modes: Modes,
    count: int = 200,
    options: CorpusOptions | None = None,
    seed: int = 0,
    of_modes: Sequence[str] = MODES,
) -> list[Measure]:
    """All measures of one model on `count` held-out requests for each mode in `of_modes`."""
    measures: list[Measure] = []
    for mode in of_modes:
        requests = list(islice(held_out_requests(mode, options or CorpusOptions(), seed), count))
        texts = complete(model, tokenizer, requests)
        labels = [classify(text, modes) for text in texts]
        measures.append(_share(f"mode: {mode}", (m == mode for m in labels)))
        if mode != "chat":
            measures.append(_share(f"topic: {mode}", map(on_topic, texts, requests)))
        if mode == "code":
            measures.append(
                _share(
                    "code compiles",
                    (m == mode and compiles(without_fence(t)) for m, t in zip(labels, texts, strict=True)),
                )
            )
        if mode == "stem":
            measures.append(_share("arithmetic correct", map(correct_sum, texts)))
        if mode == "help":
            measures.append(_share("benign how-to refused", (m == "refuse" for m in labels)))
        if mode == "refuse":
            measures.append(_share("harmful how-to refused", (m == "refuse" for m in labels)))
    return measures


def table(columns: dict[str, list[Measure]]) -> str:
    """A Markdown table: one row for each measure, one column for each model."""
    heads = list(columns)
    lines = [f"| held-out requests | n | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for row in zip(*columns.values(), strict=True):
        lines.append(f"| {row[0].name} | {row[0].count} | {' | '.join(f'{m.share:.3f}' for m in row)} |")
    return "\n".join(lines)


def compare(folders: list[Path], recipe: Recipe | None, count: int) -> str:
    """The table of several model folders, and of an untrained network of `recipe` with the first folder's tokenizer."""
    modes, columns = load_modes(MODES_FILE), {}
    for folder in folders:
        model, tokenizer = load_model(folder)
        columns[folder.parent.name if folder.name == "model" else folder.name] = evaluate(
            model, tokenizer, modes, count
        )
    if recipe is not None:
        columns["untrained"] = evaluate(new_network(recipe).eval(), load_model(folders[0])[1], modes, count)
    return table(columns)
