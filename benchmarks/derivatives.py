"""Transcoding and Jacobians: derivatives as the published code takes them, beside ours on the same slice."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

import mi_ortho as mo
from benchmarks.models import prompt, random_qwen2, slice_flop
from benchmarks.options import Options
from benchmarks.published import columns, exponential_factors
from benchmarks.table import Table, interleaved
from benchmarks.tables import SOURCE, TARGET, gemm_rate, rng

PROMPTS, RADIUS = 4, 4.0
SHAPE = "random Qwen2, d_model 256, 8 layers, block weights doubled, 37 tokens a prompt, slice 2 to 5, fp32"


def dct(options: Options) -> Table:
    """Exponential DCT for each iteration: the published structure against ours, from one start."""
    k, steps = options.factors, options.iterations
    model, z = _slice(PROMPTS, 3)
    start = mo.interventions.orthonormal_rows(torch.randn(k, z.d_model, generator=rng()))

    def ours(chunk: int) -> Callable[[], tuple[Tensor, Tensor]]:
        def fit() -> tuple[Tensor, Tensor]:
            factors = mo.dct.exponential_dct(
                z, k, radius=RADIUS, generator=rng(), steps=steps, start=start, chunk=chunk
            )
            return factors.inputs, factors.weights

        return fit

    ways = {
        "published: vmap of vjp, 16 factors at once": lambda: exponential_factors(z, start, RADIUS, steps),
        "ours, 16 factors at once, the default": ours(16),
        "ours, 64 factors at once": ours(64),
        "ours, 4 factors at once": ours(4),
    }
    seconds = [spent / steps for spent in interleaved(list(ways.values()), options.repeats)]
    floor = k * PROMPTS * slice_flop(model, TARGET - SOURCE) / gemm_rate()
    rows = [
        [name, f"{spent:.2f}", f"{seconds[0] / spent:.2f}x", f"{spent / floor:.2f}x", *_quality(z, *way())]
        for (name, way), spent in zip(ways.items(), seconds, strict=True)
    ]
    command = f"python -m benchmarks dct --factors {k} --iterations {steps} --repeats {options.repeats}"
    headers = ["", "CPU s an iteration", "speed", "time / FLOP floor", "mean effect", "fit", "max abs cos"]
    return Table(
        f"Exponential DCT: {k} factors, {PROMPTS} prompts, last 3 positions ({SHAPE})",
        command,
        headers,
        rows,
        [
            "seconds: those of a whole fit over its iterations; the fits start from the same "
            "directions and run in turn; "
            "median of the repeats",
            "floor: 4 FLOP for each sliced weight, token, prompt and factor, "
            f"at the {gemm_rate() / 1e9:.0f} GFLOP/s of a large product: "
            "an iteration alone, where the time has two more forward passes for each fit",
            "mean effect: |z(radius v) - z(0)|, mean over the input directions made orthonormal once more",
            "fit: sum of weight times effect along the output, which is what the fit explains of the map; it is the "
            "maximum of the objective for the directions found",
        ],
    )


def _slice(n: int, readout: Literal["mean"] | int) -> tuple[object, mo.FunctionMap]:
    model = random_qwen2(256, 8, d_mlp=704, heads=8)
    source, target = mo.resid_post(SOURCE), mo.resid_post(TARGET)
    return model, mo.derivatives.pooled(
        mo.slice_model(model, prompt(n=n), source=source, target=target, readout=readout)
    )


@torch.no_grad()
def _quality(z: mo.ActivationMap, inputs: Tensor, weights: Tensor) -> list[str]:
    """Mean effect of orthonormal directions, explained share of the fit, largest cosine of what was returned."""
    zero = torch.zeros(1, z.d_model)
    effects = (z(RADIUS * inputs) - z(zero)).norm(dim=-1)
    effect = (z(RADIUS * mo.interventions.orthonormal_rows(inputs)) - z(zero)).norm(dim=-1)
    return [f"{effect.mean():.2f}", f"{float(weights @ effects):.1f}", f"{mo.max_abs_cosine(inputs):.0e}"]


def jacobian(options: Options) -> Table:
    """The full Jacobian of a slice: columns in forward mode as published, against ours."""
    model, z = _slice(1, "mean")
    zero = torch.zeros(z.d_model)
    ways: dict[str, Callable[[], Tensor]] = {
        "published: columns by jvp, 16 at once": lambda: columns(z, zero),
        "columns by jvp, 64 at once": lambda: columns(z, zero, 64),
        "rows by torch.func.jacrev, 64 at once": lambda: torch.func.jacrev(_row(z), chunk_size=64)(zero),
        "ours": lambda: mo.jacobian(z, zero),
    }
    seconds = interleaved(list(ways.values()), options.repeats)
    exact = mo.jacobian(z, zero)
    floor = z.d_model / 2 * slice_flop(model, TARGET - SOURCE) / gemm_rate()
    rows = [
        [
            name,
            f"{spent:.2f}",
            f"{seconds[0] / spent:.2f}x",
            f"{spent / floor:.2f}x",
            f"{float((way() - exact).norm() / exact.norm()):.0e}",
        ]
        for (name, way), spent in zip(ways.items(), seconds, strict=True)
    ]
    return Table(
        f"Full Jacobian of a slice: 256 by 256, one prompt, mean over positions ({SHAPE})",
        f"python -m benchmarks jacobian --repeats {options.repeats}",
        ["", "CPU s", "speed", "time / FLOP floor", "relative difference from ours"],
        rows,
        [
            "floor: 2 FLOP for each sliced weight, token and row, at the rate of a large product",
            "ways run in turn; median of the repeats",
        ],
    )


def _row(z: mo.ActivationMap) -> Callable[[Tensor], Tensor]:
    return lambda theta: z(theta[None])[0]


DERIVATIVES = {"dct": dct, "jacobian": jacobian}
