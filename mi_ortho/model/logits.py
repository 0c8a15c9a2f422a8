"""What a steering vector does, in numbers: divergences between next-token distributions and log-odds of completions."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def kl_divergence(
    p_logits: Float[Tensor, "*rows d_vocab"], q_logits: Float[Tensor, "*rows d_vocab"]
) -> Float[Tensor, "*rows"]:
    """KL(p || q) in nats at every position: the cost of believing q when p is true.

    The arguments are named in the order of the symbol; the published code plots KL(vector || base) under a title that
    says the reverse.

    >>> p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(float(kl_divergence(p_logits=p, q_logits=q)), 4)
    0.5108
    """
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    # where p is 0 the term is 0, also when log p is -inf
    terms = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), torch.zeros_like(log_p))
    return terms.sum(-1)


def masked_mean(values: Float[Tensor, "*n rows"], real: Bool[Tensor, " rows"]) -> Float[Tensor, "*n"]:
    """Mean over the rows that are real."""
    if not bool(real.any()):
        raise ValueError("got no real position to average over; expected at least one; check the answers and the mask")
    return values[..., real].mean(-1)


def log_likelihood(
    logits: Float[Tensor, "*n positions d_vocab"], tokens: Int[Tensor, " positions"], real: Bool[Tensor, " positions"]
) -> Float[Tensor, "*n"]:
    """log p(tokens) in nats, summed over the real positions.

    Args:
        logits: those that predict each token.
        tokens: the token at each position; entries that are not real may be anything in range.
        real: which positions count.
    """
    log_p = logits.log_softmax(-1)
    picked = log_p.gather(-1, tokens.expand(log_p.shape[:-1])[..., None])[..., 0]
    return torch.where(real, picked, torch.zeros_like(picked)).sum(-1)
