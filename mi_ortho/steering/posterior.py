"""How far a vector turns an answer to one behaviour among several, graded: by teacher-forced openings of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.edits import Add
from mi_ortho.model import branch_log_probs
from mi_ortho.model.tokenizer import encode
from mi_ortho.steering.completions import Setting, unsteered_completions

TOKENS = 8  # of an opening


@dataclass(frozen=True, eq=False)
class ModePosterior:
    """From vectors to the posterior of modes on one prompt; made by `mode_posterior`.

    Attributes:
        setting: where vectors go.
        text: the prompt.
        openings: by mode, in the order of the columns, the tokens that its answers begin with.
    """

    setting: Setting
    text: str
    openings: Mapping[str, Sequence[Sequence[int]]]

    @torch.no_grad()
    def __call__(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n modes"]:
        """The posterior under each vector; a zero vector gives the unsteered one."""
        setting, answers = self.setting, [ids for each in self.openings.values() for ids in each]
        log_p = branch_log_probs(
            setting.model,
            setting.prompts([self.text]).repeat(len(vectors)),
            [k for k in range(len(vectors)) for _ in answers],
            answers * len(vectors),
            edits=lambda rows: {setting.site: Add(vectors[rows])},
            where=setting.where,
        )
        likelihoods = log_p.sum(-1).unflatten(0, (len(vectors), len(answers)))
        return posterior_of(likelihoods, [len(each) for each in self.openings.values()])

    def of(self, mode: str, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """The posterior of one mode."""
        return self(vectors)[:, list(self.openings).index(mode)]


def mode_posterior(
    setting: Setting, text: str, openings: Mapping[str, Sequence[str]], *, most: int = TOKENS
) -> ModePosterior:
    """The posterior of each mode under a vector, given that the answer to `text` begins with one of the openings.

    All modes are equally likely beforehand, and so are all openings of one: p(mode | opening, vector) is proportional
    to the mean over its openings of p(opening | text, vector), where every opening is cut to its first `most` tokens.
    Unlike a label it moves before the answer does.

    Args:
        setting: where vectors go.
        text: the prompt.
        openings: by mode, texts that answers of this mode begin with; the columns are in this order.
        most: how many tokens of each are looked at.

    Raises:
        ValueError: fewer than two modes, or one without an opening.
    """
    if len(openings) < 2 or not all(openings.values()):
        counts = ", ".join(f"{len(texts)} for {mode}" for mode, texts in openings.items()) or "none"
        raise ValueError(
            f"got openings: {counts}; expected at least two modes and an opening for each; add some, or "
            "leave the mode out"
        )
    begun = {mode: [encode(setting.model.tokenizer, one)[:most] for one in texts] for mode, texts in openings.items()}
    return ModePosterior(setting, text, begun)


def posterior_of(log_likelihoods: Float[Tensor, "n openings"], sizes: Sequence[int]) -> Float[Tensor, "n modes"]:
    """Bayes' rule for openings that belong to modes in consecutive groups of `sizes`, all modes equally likely.

    >>> posterior_of(torch.tensor([[0.2, 0.4, 0.1]]).log(), [2, 1])
    tensor([[0.7500, 0.2500]])
    """
    groups = log_likelihoods.split(list(sizes), dim=-1)
    means = [group.logsumexp(-1) - torch.tensor(float(size)).log() for group, size in zip(groups, sizes, strict=True)]
    return torch.stack(means, dim=-1).softmax(-1)


def natural_openings(setting: Setting, asked: Mapping[str, Sequence[str]], *, most: int = 6) -> dict[str, list[str]]:
    """The model's own answers to prompts that call for a mode, of those that show it, unsteered: at most `most` a mode.

    Modes that no answer shows are left out. `asked` is such as `Subject.texts.natural`: prompts by mode.
    """
    prompts = {mode: list(texts) for mode, texts in asked.items() if mode in setting.modes.names and texts}
    width, device = int(setting.model.cfg.d_model), setting.model.cfg.device
    openings: dict[str, list[str]] = {}
    for mode, texts in prompts.items():
        done = unsteered_completions(setting, texts, width, torch.device(device or "cpu"))
        texts_of_mode = list(dict.fromkeys(one.text for one in done if one.mode == mode))[:most]
        if texts_of_mode:
            openings[mode] = texts_of_mode
    return openings
