"""Prompts: texts (and teacher-forced answers) as one padded batch of tokens."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_ortho.model.load import Model, weights
from mi_ortho.model.templates import EndlessTemplate, render
from mi_ortho.model.tokenizer import encode, start_ids

_MARKER = "INSTRUCTION"
ROLES = ("system", "user", "assistant")  # before the user's text, that text, after it up to the answer


@dataclass(frozen=True, eq=False)
class Prompts:
    """A batch of prompts, each followed by its answer if it has one.

    Columns `[0, prompt_length)` are the prompts, padded on the left so that all end at the same column; the rest are
    the answers, padded on the right. `mask` is True at real tokens; `passive`, where there is one, at those that are
    neither steered nor read (attention sinks, see `without_sinks`). `roles`, where the tokenizer can tell, is the place
    in ROLES of the text that each prompt token belongs to, -1 for padding.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    prompt_length: int
    texts: tuple[str, ...]
    passive: Bool[Tensor, "batch pos"] | None = None
    roles: Int[Tensor, "batch prompt"] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def padded(self) -> bool:
        """Whether any column of any row is padding."""
        return not bool(self.mask.all())

    @property
    def active(self) -> Bool[Tensor, "batch pos"]:
        """Real tokens that may be steered and read."""
        return self.mask if self.passive is None else self.mask & ~self.passive

    def repeat(self, n: int) -> "Prompts":
        """The whole batch n times over, copy after copy: row `i * len(self) + j` is prompt j of copy i."""
        passive, roles = (None if one is None else one.repeat(n, 1) for one in (self.passive, self.roles))
        tokens, mask = self.tokens.repeat(n, 1), self.mask.repeat(n, 1)
        return Prompts(tokens, mask, self.prompt_length, self.texts * n, passive, roles)

    def rows(self, indices: Int[Tensor, " rows"]) -> "Prompts":
        """The batch of these rows, in this order; any may come again."""
        passive, roles = (None if one is None else one[indices] for one in (self.passive, self.roles))
        texts = tuple(self.texts[k] for k in indices.tolist())
        return Prompts(self.tokens[indices], self.mask[indices], self.prompt_length, texts, passive, roles)

    def prompts_only(self) -> "Prompts":
        """The same prompts without their answers."""
        end = self.prompt_length
        passive = None if self.passive is None else self.passive[:, :end]
        return Prompts(self.tokens[:, :end], self.mask[:, :end], end, self.texts, passive, self.roles)


class Written(str):
    """A text that a model wrote, with the tokens it wrote it in: the same text may be spelled in other tokens as well.

    A str in every way; what is cut from it or joined to it is an ordinary str again.
    """

    ids: tuple[int, ...]

    def __new__(cls, text: str, ids: Sequence[int]) -> "Written":
        written = super().__new__(cls, text)
        written.ids = tuple(int(i) for i in ids)
        return written


def tokenize(
    model: Model,
    texts: Sequence[str],
    *,
    system: str | None = None,
    template: bool = True,
    answers: Sequence[str] | Sequence[Sequence[int]] | None = None,
) -> Prompts:
    """Texts as user messages in the tokenizer's chat template, or as they are when it has none or `template` is False.

    Without a template the start token is put in front if the tokenizer itself does so. `answers`, strings or token
    ids, one for each text, are appended token for token; texts of `generate` in the tokens they were written in.
    Raises ValueError for no or empty texts or answers, for sequences longer than the context, for a `system` message
    the template cannot hold, and for tokens the model does not have.
    """
    _require_texts("texts", texts)
    shape, start = _shape(model.tokenizer, system, template)
    shaped = [shape(text) for text in texts]
    ids = [start + encode(model.tokenizer, text) for text in shaped]
    _require_in_vocabulary(model, "prompt", ids)
    tails = [[] for _ in texts] if answers is None else _answer_ids(model, answers, len(texts))
    length, width = max(map(len, ids)), max(map(len, tails))
    limit = int(model.cfg.n_ctx)
    if length + width > limit:
        raise ValueError(
            f"got a sequence of {length + width} tokens; expected at most {limit}, the model's context; "
            "shorten the prompt or the answer"
        )
    pad = _pad_id(model)
    device = next(weights(model)).device
    rows = [[pad] * (length - len(a)) + a + b + [pad] * (width - len(b)) for a, b in zip(ids, tails, strict=True)]
    real = [
        [i >= length - len(a) and i < length + len(b) for i in range(length + width)]
        for a, b in zip(ids, tails, strict=True)
    ]
    roles = [_roles(model.tokenizer, whole, text, row) for whole, text, row in zip(shaped, texts, ids, strict=True)]
    named = [[-1] * (length - len(row)) + row for row in roles if row is not None]
    return Prompts(
        torch.tensor(rows, device=device),
        torch.tensor(real, device=device),
        length,
        tuple(texts),
        roles=torch.tensor(named, device=device) if len(named) == len(texts) else None,
    )


def _roles(tokenizer: Any, whole: str, text: str, ids: Sequence[int]) -> list[int] | None:
    """The number in ROLES of every token of a prompt; None where the tokenizer does not tell its tokens' characters."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    read = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spelled, first = list(read["input_ids"]), whole.rfind(text.strip())
    started = len(ids) - len(spelled)
    if first < 0 or list(ids[started:]) != spelled:
        return None
    last = first + len(text.strip())
    return [0] * started + [0 if end <= first else 2 if begin >= last else 1 for begin, end in read["offset_mapping"]]


def _require_texts(name: str, texts: Sequence[Any]) -> None:
    if isinstance(texts, str):
        raise ValueError(f"got one string as {name}; expected a list of strings; wrap it in [ ]")
    if len(texts) == 0:
        raise ValueError(f"got no {name}; expected at least one; add a prompt")
    for i, text in enumerate(texts):
        if len(text) == 0 or (isinstance(text, str) and not text.strip()):
            raise ValueError(f"got empty text at position {i} of {name}; expected some words; remove or fill it")


def _shape(tokenizer: Any, system: str | None, template: bool) -> tuple[Callable[[str], str], list[int]]:
    """From a text to its whole prompt as text, and the tokens in front of it."""
    if template and getattr(tokenizer, "chat_template", None):
        return chat_form(tokenizer, system), []
    if system is not None:
        raise ValueError(
            "got a system message; expected a tokenizer with a chat template and template=True; "
            "put the system text into the prompt"
        )
    return lambda text: text, start_ids(tokenizer)


def chat_form(tokenizer: Any, system: str | None = None) -> Callable[[str], str]:
    """From a user's text to the whole prompt by the tokenizer's chat template, up to where the answer begins.

    Some templates take contents as text, others as a list of parts, and leave out what comes in the other form: the
    one is taken in which a probe is found in the prompt. Raises ValueError where neither is, and the function it gives
    where a text, or the system message, is not in the prompt.
    """

    def filled(text: str, listed: bool) -> str:
        turns = ([] if system is None else [("system", system)]) + [("user", text)]
        messages = [
            {"role": role, "content": [{"type": "text", "text": content}] if listed else content}
            for role, content in turns
        ]
        try:
            prompt = render(tokenizer, messages)
        except EndlessTemplate:
            raise
        except Exception as error:  # templates raise jinja2 errors, which are not our dependency
            raise ValueError(
                f"got a message the chat template refuses ({' '.join(str(error).split())[:120]}); expected "
                "roles it knows; drop the system message or pass template=False"
            ) from error
        for role, content in turns:
            if content.strip() not in prompt:
                raise ValueError(
                    f"got a chat template that leaves out or changes the {role}'s text {content.strip()[:40]!r}; "
                    "expected it in the prompt; give the tokenizer another template, or pass template=False"
                )
        return prompt

    complaint: ValueError | None = None
    for listed in (False, True):
        try:
            filled(_MARKER, listed)
        except EndlessTemplate:
            raise
        except ValueError as error:
            complaint = complaint or error
        else:
            return lambda text: filled(text, listed)
    assert complaint is not None
    raise complaint


def prompt_digest(prompts: Prompts) -> str:
    """SHA-256 of the tokens of every prompt and answer, padding left out.

    Templates may write today's date, so that one text is another prompt tomorrow.
    """
    edge = prompts.prompt_length
    rows = [
        [row[:edge][real[:edge]].tolist(), row[edge:][real[edge:]].tolist()]
        for row, real in zip(prompts.tokens, prompts.mask)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def prompt_facts(model: Model, prompts: Prompts) -> dict[str, object]:
    """What a run keeps to know its prompts again: their digest, and the first as the model is given it."""
    first = prompts.tokens[0][prompts.mask[0]].tolist()
    return {"prompt_digest": prompt_digest(prompts), "prompt_shown": model.tokenizer.decode(first)}


def require_same_prompts(model: Model, prompts: Prompts, before: Mapping[str, object]) -> None:
    """Raises ValueError unless `prompts` are, token for token, those of which `before` are the `prompt_facts`."""
    now = prompt_facts(model, prompts)
    digest = before.get("prompt_digest")
    if digest is not None and digest != now["prompt_digest"]:
        raise ValueError(
            f"got prompts of other tokens than before (now {_brief(now)}, then {_brief(before)}); expected the same; "
            "the tokenizer or its chat template changed, or writes the date; restore it, or start a new run"
        )


def _brief(facts: Mapping[str, object]) -> str:
    text = str(facts.get("prompt_shown"))
    return repr(text if len(text) <= 160 else f"{text[:120]} ... {text[-36:]}")


def _answer_ids(model: Model, answers: Sequence[Any], n: int) -> list[list[int]]:
    _require_texts("answers", answers)
    if len(answers) != n:
        raise ValueError(f"got {len(answers)} answers for {n} texts; expected one each; repeat or drop some")
    ids = [_answer(model, answer) for answer in answers]
    _require_in_vocabulary(model, "answer", ids)
    return ids


def _answer(model: Model, answer: Any) -> list[int]:
    if isinstance(answer, Written):
        return list(answer.ids)
    return encode(model.tokenizer, answer) if isinstance(answer, str) else [int(i) for i in answer]


def _require_in_vocabulary(model: Model, what: str, ids: Sequence[Sequence[int]]) -> None:
    top = int(model.cfg.d_vocab)
    for i in (i for row in ids for i in row):
        if not 0 <= i < top:
            raise ValueError(f"got {what} token {i}; expected an id from 0 to {top - 1}; use this model's tokenizer")


def _pad_id(model: Model) -> int:
    """A token for columns that no attention sees; a padding token may lie outside the embedding."""
    ids = (model.tokenizer.pad_token_id, model.tokenizer.eos_token_id, 0)
    return next(i for i in ids if i is not None and 0 <= i < int(model.cfg.d_vocab))
