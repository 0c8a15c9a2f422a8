"""What a model reads from its last residual stream: final norm, unembedding, and whatever scales or caps the logits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_ortho.model.blocks import copied, hidden, relative_error, require_equal
from mi_ortho.model.load import Model
from mi_ortho.model.passes import run
from mi_ortho.model.stepping import probe

ROWS = 512  # directions that go through the final norm together


@dataclass(frozen=True, eq=False)
class LogitLens:
    """The logits that a model reads from any residual stream, as if it were the last one.

    Everything goes through the model's own modules, so that a gain of 1 + weight, a soft cap or a scale of the logits
    is applied as the model applies it. Frozen: hooks set on the model later do not reach it.
    """

    d_model: int
    _logits: Callable[[Tensor], Tensor]
    _normed: Callable[[Tensor], Tensor]
    _unembed: nn.Module

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits of streams; of the last one, those of the model. A plain function for torch.func."""
        return self._logits(x)

    @torch.no_grad()
    def matrix(self) -> Float[Tensor, "d_model d_vocab"]:
        """What each direction of the stream adds to the logits: gains of the final norm times the unembedding.

        The norm's scale, which depends on the whole stream, and a scale or cap of all logits are left out.

        Raises:
            ValueError: the final norm is no linear map but for its scale.
        """
        weight = next(self._unembed.parameters())
        eye = torch.eye(self.d_model, dtype=weight.dtype, device=weight.device)
        normed = torch.cat([self._odd(part) for part in eye.split(ROWS)])
        samples = torch.randn(4, self.d_model, generator=torch.Generator().manual_seed(0)).to(eye)
        cosines = torch.cosine_similarity((samples @ normed).float(), self._odd(samples).float(), dim=-1)
        if not bool((cosines > 0.99).all()):
            raise ValueError(
                f"got a final norm that is no linear map but for its scale (cosine {float(cosines.min()):.2f}); "
                "expected a norm over the whole stream; leave the logit lens of directions out on this architecture"
            )
        constant = self._unembed(torch.zeros_like(normed[:1]))
        return torch.cat([(self._unembed(part) - constant).float() for part in normed.split(ROWS)])

    def _odd(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n width"]:
        """(norm(v) - norm(-v)) / (2 |v|) for v of length sqrt(d_model) along each direction: biases cancel."""
        long = math.sqrt(self.d_model) * nn.functional.normalize(directions, dim=-1)
        return (self._normed(long[:, None]) - self._normed(-long[:, None]))[:, 0] / (2.0 * math.sqrt(self.d_model))


@torch.no_grad()
def readout(model: Model, dtype: torch.dtype | None = None) -> LogitLens:
    """The logit lens of a model, in its own dtype or in `dtype`, compared once with the model's own logits.

    Raises:
        ValueError: what follows the last block, run by itself, does not give the model's logits.
    """
    end, exact = _end_and_logits(model)
    lens = _lens(model, isinstance(end, tuple), None)
    real = probe(model).mask
    error = relative_error(lens(hidden(end))[real], exact[real])
    require_equal(error, exact.dtype, "the final norm and the unembedding")
    return lens if dtype is None else _lens(model, isinstance(end, tuple), dtype)


def _end_and_logits(model: Model) -> tuple[Any, Tensor]:
    """What the last block returns on a few tokens, and the model's logits for them."""
    modules: Any = model
    ends: list[Any] = []
    handle = list(modules.blocks)[-1].register_forward_hook(lambda *a: ends.append(a[2]))
    try:
        logits = run(model, probe(model))
        return ends[0], logits
    finally:
        handle.remove()


def _lens(model: Any, pairs: bool, dtype: torch.dtype | None) -> LogitLens:
    """The lens; `pairs` tells that blocks return tuples."""
    head = copied(model.unembed, dtype, True)
    if not hasattr(model, "original_model"):
        return LogitLens(int(model.cfg.d_model), *_legacy(model, dtype, head), head)
    stand_in, wrapped_head = _StandIn(pairs), _WrappedHead(head)
    # the model's own forward pass with the stream in place of every block: no list of what else it does to logits
    instead: dict[int, nn.Module] = {id(block): stand_in for block in model.blocks}
    instead |= {id(model.unembed): wrapped_head, id(model.embed): nn.Identity()}
    bare: Any = copied(model.original_model, dtype, True, instead)
    width = getattr(model.embed, "original_component", model.embed).weight.shape[1]

    def logits(x: Tensor) -> Tensor:
        stand_in.stream = x
        try:
            embedded = torch.zeros(*x.shape[:2], width, dtype=x.dtype, device=x.device)
            return bare(inputs_embeds=embedded, use_cache=False).logits
        finally:
            stand_in.stream = None

    def normed(x: Tensor) -> Tensor:
        wrapped_head.skipped = True
        try:
            logits(x)
            return wrapped_head.seen
        finally:
            wrapped_head.skipped, wrapped_head.seen = False, None

    return LogitLens(int(model.cfg.d_model), logits, normed, head)


def _legacy(model: Any, dtype: torch.dtype | None, head: Any) -> tuple[Any, Any]:
    """The same of a HookedTransformer of TransformerLens 3."""
    norm = copied(model.ln_final, dtype, True)
    cap = float(getattr(model.cfg, "output_logits_soft_cap", 0.0) or 0.0)

    def logits(x: Tensor) -> Tensor:
        raw = head(norm(x))
        return cap * torch.tanh(raw / cap) if cap > 0.0 else raw

    return logits, norm


class _StandIn(nn.Module):
    """Stands for every block: whatever comes in, the stream it holds goes out."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.pairs = pairs
        self.stream: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return (self.stream,) if self.pairs else self.stream


class _WrappedHead(nn.Module):
    """The unembedding; when `skipped`, it only notes what enters it."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.skipped = head, False
        self.seen: Any = None

    @property
    def weight(self) -> Tensor:
        """By which some models choose the dtype of what they unembed."""
        return next(self.head.parameters())

    def forward(self, x: Tensor) -> Tensor:
        if self.skipped:
            self.seen = x
            return x
        return self.head(x)
