"""The published sizes on a GPU: a family of orthogonal vectors, and 512 factors of a slice of a large model."""

from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch

import mi_ortho as mo
from benchmarks.models import prompt, random_qwen2
from benchmarks.options import Options
from benchmarks.table import Clock, Table

RADIUS = 7.0
FACTOR_RADIUS = 8.8  # calibrated by Mack and Turner on Qwen1.5-7B-Chat; random weights have no scale of their own
STEPS = 10


@dataclass(frozen=True)
class Shape:
    """Blocks of a Qwen2 whose weights are random."""

    d_model: int
    d_mlp: int
    heads: int

    def sliced(self, blocks: int, source: int, device: str, readout: Literal["mean"] | int = "mean") -> mo.Slice:
        """From the end of block `source` over the next `blocks`. Blocks after the target never run: none are made."""
        model: Any = random_qwen2(
            self.d_model,
            source + blocks + 1,
            d_mlp=self.d_mlp,
            heads=self.heads,
            device=device,
            dtype=torch.bfloat16,
        )
        start, end = mo.resid_post(source), mo.resid_post(source + blocks)
        return mo.slice_model(model, prompt(device), source=start, target=end, readout=readout)


QWEN_1_8B, QWEN_7B = Shape(2048, 5504, 16), Shape(4096, 11008, 32)


def accelerator(options: Options) -> list[Table]:
    """Both tables, with bf16 blocks; they say so where there is no GPU."""
    return [family(options), factors(options)]


def family(options: Options) -> Table:
    """The whole published family, vector by vector and in blocks."""
    command = f"python -m benchmarks accelerator --device cuda --family {options.family}"
    title = f"{options.family} orthogonal vectors, shape of Qwen1.5-1.8B, slice 8 to 16, bf16 blocks"
    headers = ["", "s in all", "ms a vector", "kept", "mean L", "max abs cos", "peak GPU memory"]
    if not _has_gpu(options):
        return Table(title, command, headers, [["not run: no GPU", *["-"] * 6]])
    torch.cuda.reset_peak_memory_stats()
    z = QWEN_1_8B.sliced(8, 8, "cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    base = mo.melbo(mo.displace(z, like=torch.zeros(2048, device="cuda")), radius=RADIUS, generator=generator)[0].vector
    goal = mo.match(z, base)
    rows = [_family(goal, base, options.family, block, generator) for block in (1, 64)]
    return Table(title, command, headers, rows)


def _family(
    goal: mo.elicitation.Match, base: torch.Tensor, n: int, block: int, generator: torch.Generator
) -> list[str]:
    settings = mo.OrthoSettings(block=block, patience=n, refresh=64, solver=mo.Lbfgs(max_steps=12))
    with Clock() as clock:
        curvature = mo.derivatives.gauss_newton(goal, base, generator=generator)
        results = list(islice(mo.melbo_ortho(goal, base, seed=0, settings=settings, curvature=curvature), n))
    working = [result for result in results if result.status not in (mo.Status.COLLAPSED, mo.Status.NONFINITE)]
    vectors = torch.stack([base, *(result.vector for result in working)])
    loss = sum(result.loss for result in results) / n
    memory = torch.cuda.max_memory_allocated() / 1e9
    each = 1000 * clock.wall / n
    return [
        f"eager, block of {block}",
        f"{clock.wall:.0f}",
        f"{each:.0f}",
        str(len(working)),
        f"{loss:.3f}",
        f"{mo.max_abs_cosine(vectors):.0e}",
        f"{memory:.1f} GB",
    ]


def factors(options: Options, shape: Shape = QWEN_7B, n: int = 512, blocks: int = 10) -> Table:
    """Exponential DCT of ten blocks on one prompt, with its default start."""
    what = "shape of Qwen1.5-7B" if shape == QWEN_7B else f"width {shape.d_model}"
    title = f"{n} exponential factors, {STEPS} iterations, {blocks} blocks, {what}, one prompt, bf16 blocks"
    headers = ["", "s in all", "s an iteration", "mean effect, first to last", "max abs cos", "peak GPU memory"]
    if not _has_gpu(options) and shape == QWEN_7B:
        rows = [["not run: no GPU", *["-"] * 5]]
    else:
        rows = [_factors(shape, n, blocks, options.device, chunk) for chunk in (64, 128)]
    return Table(
        title,
        "python -m benchmarks accelerator --device cuda",
        headers,
        rows,
        [
            "published: 37.5 s on one H100 for the trained model, which its post rounds to 30 s",
            "last 3 positions; all of the fit is timed: the start from a projected Jacobian, the "
            "iterations, the weights",
        ],
    )


def _factors(shape: Shape, n: int, blocks: int, device: str, chunk: int) -> list[str]:
    z = mo.derivatives.pooled(shape.sliced(blocks, 0, device, 3))
    generator = torch.Generator(device).manual_seed(0)
    mo.dct.exponential_dct(z, min(n, chunk), radius=FACTOR_RADIUS, generator=generator, steps=1, chunk=chunk)  # warm
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with Clock() as clock:
        fit = mo.dct.exponential_dct(z, n, radius=FACTOR_RADIUS, generator=generator, steps=STEPS, chunk=chunk)
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if device == "cuda" else "-"
    return [
        f"{chunk} at once",
        f"{clock.wall:.1f}",
        f"{clock.wall / STEPS:.2f}",
        f"{fit.trace[0]:.3g} to {fit.trace[-1]:.3g}",
        f"{mo.max_abs_cosine(fit.inputs):.0e}",
        memory,
    ]


def _has_gpu(options: Options) -> bool:
    return options.device == "cuda" and torch.cuda.is_available()
