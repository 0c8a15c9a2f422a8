"""How far a vector turns an answer to one behaviour among several, graded: by teacher-forced openings of each."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.model import logit_slice
from mi_ortho.model.tokenizer import encode
from mi_ortho.steering.completions import Setting, unsteered_completions

TOKENS = 8  # of an opening


@torch.no_grad()
def mode_posterior(
    setting: Setting,
    text: str,
    vectors: Float[Tensor, "n d_model"],
    openings: Mapping[str, Sequence[str]],
    *,
    tokens: int = TOKENS,
    chunk: int = 2,
) -> Float[Tensor, "n modes"]:
    """The posterior of each mode under each vector, given that the answer to `text` begins with one of the openings.

    All modes are equally likely beforehand, and so are all openings of one: p(mode | opening, vector) is proportional
    to the mean over its openings of p(opening | text, vector), where every opening is cut to its first `tokens` tokens.
    Unlike a label it moves before the answer does. Columns are in the order of `openings`.

    Args:
        setting: where vectors go.
        text: the prompt.
        vectors: steering vectors; a zero vector gives the unsteered posterior.
        openings: by mode, texts that answers of this mode begin with.
        tokens: how much of each is looked at.
        chunk: vectors at a time.

    Raises:
        ValueError: fewer than two modes, or one without an opening.
    """
    if len(openings) < 2 or not all(openings.values()):
        counts = ", ".join(f"{len(texts)} for {mode}" for mode, texts in openings.items()) or "none"
        raise ValueError(
            f"got openings: {counts}; expected at least two modes and an opening for each; add some, or "
            "leave the mode out"
        )
    begun = [encode(setting.model.tokenizer, one)[:tokens] for texts in openings.values() for one in texts]
    prompts = setting.prompts([text] * len(begun), begun)
    z = logit_slice(setting.model, prompts, source=setting.site, where=setting.where)
    chosen, real = (part[:, prompts.prompt_length :] for part in (prompts.tokens, prompts.mask))
    likelihoods = []
    for part in vectors.split(chunk):
        log_p = z(part).log_softmax(-1).gather(-1, chosen.expand(len(part), -1, -1)[..., None])[..., 0]
        likelihoods.append(torch.where(real, log_p, 0.0).sum(-1))
    return posterior_of(torch.cat(likelihoods), [len(texts) for texts in openings.values()])


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
