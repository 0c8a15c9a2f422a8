"""The residual stream of every block in one forward pass: its norms, and the first block where it overflows."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.model.load import Model, weights
from mi_ortho.model.passes import only_last, run
from mi_ortho.model.prompts import Prompts


@torch.no_grad()
def along_depth(model: Model, prompts: Prompts, f: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """f of the residual stream entering the first block and leaving every block, on the CPU; boundary after boundary.

    Interventions that are active are seen in what blocks return. Only f's results are kept.
    """
    modules: Any = model
    values: list[Tensor] = []

    def entering(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values.append(f(args[0] if args else kwargs["hidden_states"]).cpu())

    def leaving(module: Any, args: Any, output: Any) -> None:
        values.append(f(output[0] if isinstance(output, tuple) else output).cpu())

    with ExitStack() as stack:
        stack.callback(modules.blocks[0].register_forward_pre_hook(entering, with_kwargs=True).remove)
        for block in modules.blocks:
            stack.callback(block.register_forward_hook(leaving).remove)
        run(model, prompts, **only_last(model, 1))
    return values


def stream_norms(model: Model, prompts: Prompts) -> Float[Tensor, "boundary batch pos"]:
    """Length of the residual stream at every boundary (0: before the first block) and position, fp32, on the CPU."""
    return torch.stack(along_depth(model, prompts, lambda x: x.float().norm(dim=-1)))


def require_finite(values: Tensor, model: Model, prompts: Prompts, what: str) -> None:
    """Raises ValueError where `values`, computed by `model` on `prompts`, are not all finite numbers.

    One more forward pass finds the block to name; call it where the interventions that acted are still active.
    """
    if not bool(values.isfinite().all()):
        raise ValueError(_overflow(model, prompts, what))


def _overflow(model: Model, prompts: Prompts, what: str) -> str:
    real = prompts.mask.cpu()
    finite = [bool(ok[real].all()) for ok in along_depth(model, prompts, lambda x: x.isfinite().all(dim=-1))]
    dtype = str(next(weights(model)).dtype).removeprefix("torch.")
    place = "from the final norm or the unembedding"
    if not all(finite):
        first = finite.index(False)
        place = f"from block {first - 1} on" if first else "from the embedding on"
    remedy = (
        "load the model in bfloat16 or float32, whose range is wider"
        if dtype == "float16"
        else "use smaller steering vectors, or check the model's weights"
    )
    return f"got {what} with NaN or infinite values, {place}, in {dtype}; expected finite numbers; {remedy}"
