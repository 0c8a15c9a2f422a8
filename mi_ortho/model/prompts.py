"""Prompts: texts (and teacher-forced answers) as one padded batch of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_ortho.model.load import Model, weights
from mi_ortho.model.templates import EndlessTemplate, render


@dataclass(frozen=True, eq=False)
class Prompts:
    """A batch of prompts, each followed by its answer if it has one.

    Columns `[0, prompt_length)` are the prompts, padded on the left so that all end at the same column; the rest are
    the answers, padded on the right. `mask` is True at real tokens.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    prompt_length: int
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def padded(self) -> bool:
        """Whether any column of any row is padding."""
        return not bool(self.mask.all())

    def repeat(self, n: int) -> "Prompts":
        """The whole batch n times over, copy after copy: row `i * len(self) + j` is prompt j of copy i."""
        return Prompts(self.tokens.repeat(n, 1), self.mask.repeat(n, 1), self.prompt_length, self.texts * n)

    def prompts_only(self) -> "Prompts":
        """The same prompts without their answers."""
        end = self.prompt_length
        return Prompts(self.tokens[:, :end], self.mask[:, :end], end, self.texts)


def tokenize(
    model: Model,
    texts: Sequence[str],
    *,
    system: str | None = None,
    template: bool = True,
    answers: Sequence[str] | Sequence[Sequence[int]] | None = None,
) -> Prompts:
    """Texts as user messages in the tokenizer's chat template, or as they are when it has none or `template` is False.

    Without a template the beginning-of-sequence token is put in front if the tokenizer has one. `answers`, strings or
    token ids, one for each text, are appended token for token. Raises ValueError for no or empty texts or answers, for
    sequences longer than the context, and for a `system` message the template cannot hold.
    """
    _require_texts("texts", texts)
    start = _start_ids(model)
    ids = [_prompt_ids(model.tokenizer, text, system, template, start) for text in texts]
    tails = [[] for _ in texts] if answers is None else _answer_ids(model, answers, len(texts))
    length, width = max(map(len, ids)), max(map(len, tails))
    limit = int(model.cfg.n_ctx)
    if length + width > limit:
        raise ValueError(
            f"got a sequence of {length + width} tokens; expected at most {limit}, the model's context; "
            "shorten the prompt or the answer"
        )
    pad = _pad_id(model.tokenizer)
    device = next(weights(model)).device
    rows = [[pad] * (length - len(a)) + a + b + [pad] * (width - len(b)) for a, b in zip(ids, tails, strict=True)]
    real = [
        [i >= length - len(a) and i < length + len(b) for i in range(length + width)]
        for a, b in zip(ids, tails, strict=True)
    ]
    return Prompts(torch.tensor(rows, device=device), torch.tensor(real, device=device), length, tuple(texts))


def _require_texts(name: str, texts: Sequence[Any]) -> None:
    if isinstance(texts, str):
        raise ValueError(f"got one string as {name}; expected a list of strings; wrap it in [ ]")
    if len(texts) == 0:
        raise ValueError(f"got no {name}; expected at least one; add a prompt")
    for i, text in enumerate(texts):
        if len(text) == 0 or (isinstance(text, str) and not text.strip()):
            raise ValueError(f"got empty text at position {i} of {name}; expected some words; remove or fill it")


def _prompt_ids(tokenizer: Any, text: str, system: str | None, template: bool, start: list[int]) -> list[int]:
    if not (template and getattr(tokenizer, "chat_template", None)):
        if system is not None:
            raise ValueError(
                "got a system message; expected a tokenizer with a chat template and template=True; "
                "put the system text into the prompt"
            )
        return start + _encode(tokenizer, text)
    roles = ([] if system is None else [{"role": "system", "content": system}]) + [{"role": "user", "content": text}]
    try:
        return _encode(tokenizer, render(tokenizer, roles))
    except EndlessTemplate:
        raise
    except Exception as error:  # templates raise jinja2 errors, which are not our dependency
        raise ValueError(
            f"got a message the chat template refuses ({' '.join(str(error).split())[:120]}); expected "
            "roles it knows; drop the system message or pass template=False"
        ) from error


def _start_ids(model: Model) -> list[int]:
    # TransformerLens gives tokenizers without such a token another one; its config knows whether the model wants it
    token = model.tokenizer.bos_token_id
    return [token] if token is not None and getattr(model.cfg, "default_prepend_bos", True) else []


def _answer_ids(model: Model, answers: Sequence[Any], n: int) -> list[list[int]]:
    _require_texts("answers", answers)
    if len(answers) != n:
        raise ValueError(f"got {len(answers)} answers for {n} texts; expected one each; repeat or drop some")
    ids = [_encode(model.tokenizer, a) if isinstance(a, str) else [int(i) for i in a] for a in answers]
    top = int(model.cfg.d_vocab)
    for i in (i for row in ids for i in row):
        if not 0 <= i < top:
            raise ValueError(f"got answer token {i}; expected an id from 0 to {top - 1}; use this model's tokenizer")
    return ids


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _pad_id(tokenizer: Any) -> int:
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in ids if i is not None)
