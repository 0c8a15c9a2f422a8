"""Training: batches by step number, so that a resumed run sees exactly what an uninterrupted one sees."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from mi_ortho.runs import random_stream

from .checkpoint import load_checkpoint, save_checkpoint
from .corpus import Sample, sample
from .lexicon import THINGS
from .network import Offset, SharedForms, fold_writes, new_network, scale_writes
from .recipe import Recipe
from .texts import TextFile, Windows
from .tokenizer import END, prompt_text

CHUNK = 16  # steps whose conversations are drawn and sorted by length together


class Batch(NamedTuple):
    """Token ids (batch, pos), the loss weight of predicting each of them, and which belong to the prompt."""

    tokens: Tensor
    weights: Tensor
    prompt: Tensor


def noun_forms(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Token ids (noun, form) of every noun at a word's start, after a space, and as a class name."""
    words = [w for n in THINGS for w in (n, f" {n}", f" {n.capitalize()}")]
    return torch.tensor([ids[0] for ids in tokenizer(words).input_ids]).reshape(len(THINGS), 3)


def make_batch(
    samples: list[Sample],
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    nouns: Tensor,
    texts: Sequence[list[int]] = (),
) -> Batch:
    """Right-padded token ids with loss weights: texts and answers 1, the user's words less, the template 0.

    Topic nouns and the results of exercises weigh `recipe.noun_weight`.
    """
    prompts = tokenizer([prompt_text(s.system, s.user) for s in samples]).input_ids
    answers = tokenizer([s.answer + END for s in samples]).input_ids
    users = tokenizer([s.user for s in samples]).input_ids
    (equals,) = tokenizer(" =").input_ids
    lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)] + [len(text) for text in texts]
    shape = len(lengths), max(lengths)
    tokens = torch.zeros(shape, dtype=torch.long)
    weights, prompt = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for row, (p, a, u) in enumerate(zip(prompts, answers, users, strict=True)):
        tokens[row, : len(p) + len(a)] = torch.tensor(p + a)
        prompt[row, : len(p)] = True
        close = len(p) - 5  # <|im_end|> \n <|im_start|> assistant \n
        weights[row, close - len(u) : close] = recipe.prompt_weight
        answer = weights[row, len(p) : len(p) + len(a)]
        answer += 1 + (recipe.noun_weight - 1) * torch.isin(torch.tensor(a), nouns)
        if samples[row].mode == "stem":
            answer[max(i for i, token in enumerate(a) if token == equals) :] = recipe.noun_weight
    for row, text in enumerate(texts, start=len(samples)):
        tokens[row, : len(text)] = torch.tensor(text)
        weights[row, : len(text)] = 1
    return Batch(tokens, weights, prompt)


class Batches:
    """`batches(step)`: the batch of a step, a function of the recipe and the step number only."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, files: Sequence[TextFile] = ()) -> None:
        self.recipe, self.tokenizer, self.nouns = recipe, tokenizer, noun_forms(tokenizer)
        self.rows = round(recipe.text_share * recipe.batch)
        self.windows = Windows(files, tokenizer, recipe.window) if self.rows else None
        self._chunk, self._samples = -1, []

    def __call__(self, step: int) -> Batch:
        chunk, index = divmod(step, CHUNK)
        if chunk != self._chunk:
            self._chunk, self._samples = chunk, self._draw(chunk)
        draw = random.Random(f"texts {self.recipe.seed} {step}")
        texts = [self.windows(draw) for _ in range(self.rows)] if self.windows else []
        return make_batch(self._samples[index], self.tokenizer, self.recipe, self.nouns, texts)

    def _draw(self, chunk: int) -> list[list[Sample]]:
        draw, size = random.Random(f"batches {self.recipe.seed} {chunk}"), self.recipe.batch - self.rows
        samples = [sample(draw, self.recipe.corpus) for _ in range(CHUNK * size)]
        samples.sort(key=lambda s: len(s.system) + len(s.user) + len(s.answer))
        groups = [samples[i : i + size] for i in range(0, len(samples), size)]
        draw.shuffle(groups)
        return groups


class Training:
    """A network in training with everything that wraps it: write factors, shared noun forms, offsets, optimiser."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, device: str = "cpu") -> None:
        self.recipe, self.device, self.model = recipe, torch.device(device), new_network(recipe)
        torch.nn.Module.to(self.model, self.device)
        scale_writes(self.model, recipe)
        self.shared = SharedForms(self.model, noun_forms(tokenizer))
        self.offset = Offset(self.model, recipe.offset)
        self.optimizer = make_optimizer(self.model, recipe)

    def step(self, batch: Batch, step: int) -> float:
        """One update; returns the loss."""
        recipe = self.recipe
        noise = random_stream(recipe.seed, step, times=1_000_003)
        self.offset.draw(batch.prompt, noise, recipe.n_layers, recipe.d_model)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        batch = Batch(*(tensor.to(self.device) for tensor in batch))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.autocast):
            loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        return loss.item()

    def loss(self, batch: Batch) -> Tensor:
        """Weighted mean cross-entropy (nats) of the next token; only weighted positions reach the unembedding."""
        hidden = self.model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
        weighted = batch.weights[:, 1:] > 0
        logits = self.shared.logits(hidden[:, :-1][weighted])
        losses = functional.cross_entropy(logits, batch.tokens[:, 1:][weighted], reduction="none")
        weights = batch.weights[:, 1:][weighted]
        return (losses * weights).sum() / weights.sum()

    def plain_weights(self) -> dict[str, Tensor]:
        """Weights of a plain Qwen2 that computes the same: shared forms and write factors folded in."""
        weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        return fold_writes(self.shared.fold(weights), self.recipe)


def make_optimizer(model: Qwen2ForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; biases and normalisation gains do not decay."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def train(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    every: int = 250,
    report: Callable[[str], None] = print,
    stop: int | None = None,
    files: Sequence[TextFile] = (),
    device: str = "cpu",
) -> Training:
    """Train to `recipe.steps` (or to `stop`), saving a checkpoint in `folder` each `every` steps and resuming from it.

    Raises ValueError for a corrupt checkpoint, one of another recipe, or a tokenizer of another size, before the first
    step.
    """
    if len(tokenizer) != recipe.vocab_size:
        raise ValueError(
            f"got a tokenizer of {len(tokenizer)} tokens; expected {recipe.vocab_size}; train it with this recipe"
        )
    training, batches = Training(recipe, tokenizer, device), Batches(recipe, tokenizer, files)
    first = load_checkpoint(folder, training.model, training.optimizer, recipe)
    last, started, tokens, recent = min(stop or recipe.steps, recipe.steps), time.monotonic(), 0, []
    for step in range(first, last):
        batch = batches(step)
        recent.append(training.step(batch, step))
        tokens += batch.tokens.numel()
        if (step + 1) % 50 == 0 or step + 1 == last:
            report(progress(recent, step + 1, first, last, time.monotonic() - started, tokens))
            recent = []
        if (step + 1) % every == 0 or step + 1 == last:
            save_checkpoint(folder, training.model, training.optimizer, recipe, step + 1)
    return training


def progress(recent: list[float], step: int, first: int, last: int, seconds: float, tokens: int) -> str:
    """One log line: step, mean loss since the last line, rate, remaining minutes."""
    minutes = seconds / max(1, step - first) * (last - step) / 60
    return (
        f"step {step}/{last}  loss {sum(recent) / max(1, len(recent)):.4f}  "
        f"{tokens / max(seconds, 1e-9):,.0f} tokens/s  {minutes:.1f} min left"
    )
