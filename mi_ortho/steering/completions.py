"""Completions of a model under steering vectors, with the behaviour that each shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from mi_ortho.behaviours import AS_THE_BASE, INCOHERENT, Mode, Modes, classify, readability
from mi_ortho.interventions.edits import Ablate, Add
from mi_ortho.interventions.sites import Site
from mi_ortho.model import Model, Prompts, Where, generate, generate_ids, tokenize, without_sinks
from mi_ortho.steering.coherence import mean_log_probability

ROWS = 128  # rows of one generation batch


@dataclass(frozen=True, eq=False)
class Setting:
    """Where steering vectors are added, how the model then writes, and by which rules its behaviour is named.

    Attributes:
        model: the frozen model.
        site: where vectors are added.
        where: at which positions: "all", "prompt", "generated", or the last k prompt positions.
        modes: rules that name the behaviour of a completion.
        system: system message of every prompt, None for the template's own.
        max_new_tokens: length limit of completions.
        temperature: 0 for greedy completions.
        seed: of sampled completions.
        sinks: "include" steers and reads attention sinks like any other position, "exclude" leaves them out.
        openings: by mode, texts that its answers begin with, for the posterior of modes; empty leaves that out.
    """

    model: Model
    site: Site
    where: Where
    modes: Modes
    system: str | None = None
    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0
    sinks: str = "include"
    openings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def prompts(self, texts: Sequence[str], answers: Sequence[Sequence[int]] | None = None) -> Prompts:
        """The texts tokenised for this setting's model."""
        prompts = tokenize(self.model, texts, system=self.system, answers=answers)
        return prompts if self.sinks == "include" else without_sinks(self.model, prompts)

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text without special tokens."""
        return self.model.tokenizer.decode(list(ids), skip_special_tokens=True)


@dataclass(frozen=True)
class Completion:
    """What the model wrote, and the behaviour it shows.

    Attributes:
        ids: its tokens, without the end token.
        text: the same as text.
        mode: the behaviour by the rules; `incoherent` where the text is less readable than they ask for.
        log_probability: mean over its tokens under the unsteered model, in nats; None where the rules do not ask.
    """

    ids: tuple[int, ...]
    text: str
    mode: str
    log_probability: float | None = None


def complete(setting: Setting, texts: Sequence[str], vectors: Float[Tensor, "n d_model"]) -> list[list[Completion]]:
    """Completions of every text under every vector: result[i][j] is text j under vector i.

    A zero vector gives the unsteered completion. Work is done in batches of at most 128 rows.
    """
    prompts = setting.prompts(texts)
    per_batch = max(1, ROWS // len(texts))
    ids: list[list[int]] = []
    for index, part in enumerate(vectors.split(per_batch)):
        rows = repeat(part, "n d_model -> (n text) d_model", text=len(texts))
        generator = torch.Generator(part.device).manual_seed(setting.seed + index)
        ids += generate_ids(
            setting.model,
            prompts.repeat(len(part)),
            {setting.site: Add(rows)},
            where=setting.where,
            max_new_tokens=setting.max_new_tokens,
            temperature=setting.temperature,
            generator=generator,
        )
    completions = _judged(setting, list(texts) * len(vectors), ids)
    return [completions[start : start + len(texts)] for start in range(0, len(completions), len(texts))]


def _judged(setting: Setting, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> list[Completion]:
    shown = [setting.decode(row) for row in ids]
    modes = [classify(text, setting.modes) for text in shown]
    least = setting.modes.least
    if least is None:
        return [Completion(tuple(row), text, mode) for row, text, mode in zip(ids, shown, modes, strict=True)]
    means = mean_log_probability(setting.model, texts, ids, system=setting.system).tolist()
    return [
        Completion(tuple(row), text, INCOHERENT if readability(text, mean) < least else mode, mean if row else None)
        for row, text, mode, mean in zip(ids, shown, modes, means, strict=True)
    ]


def unsteered_completions(
    setting: Setting, texts: Sequence[str], d_model: int, device: torch.device
) -> list[Completion]:
    """What the model writes without steering."""
    return complete(setting, texts, torch.zeros(1, d_model, device=device))[0]


def shares_without(
    setting: Setting, texts: Sequence[str], behaviour: str, directions: Float[Tensor, "n d_model"]
) -> list[float]:
    """For each direction, the share of texts whose completion shows `behaviour` with that direction ablated."""
    prompts, shares = setting.prompts(texts), []
    for direction in directions:
        edits = {setting.site: Ablate(direction[None])}
        completions = generate(setting.model, prompts, edits, max_new_tokens=setting.max_new_tokens)
        shares.append(sum(classify(text, setting.modes) == behaviour for text in completions) / len(texts))
    return shares


def judged_by_answers(setting: Setting, texts: Sequence[str], base: Float[Tensor, " d_model"]) -> Setting:
    """The setting with a first rule, the mode "as the base": the completion is like one of the base's own answers.

    For a base whose behaviour no rule names: what others keep of it is then told by comparing answers.
    """
    written = [completion.text for completion in complete(setting, texts, base[None])[0]]
    answers = [text for text in dict.fromkeys(written) if text.strip()]
    like = tuple(Mode(AS_THE_BASE, "like", text) for text in answers)
    openings = {**setting.openings, AS_THE_BASE: answers[:1]} if setting.openings and answers else setting.openings
    return replace(setting, modes=replace(setting.modes, modes=(*like, *setting.modes.modes)), openings=openings)
