"""The published size on a GPU: random weights of the shape of Qwen1.5-1.8B, slice 8 to 16, 1558 vectors."""

from argparse import Namespace
from itertools import islice

import torch

import mi_ortho as mo
from benchmarks.models import prompt, random_qwen2
from benchmarks.table import Clock, Table

RADIUS = 7.0


def accelerator(options: Namespace) -> Table:
    """The whole published family in blocks, with bf16 blocks; says so where there is no GPU."""
    command = f"python -m benchmarks accelerator --device cuda --family {options.family}"
    title = f"{options.family} orthogonal vectors, shape of Qwen1.5-1.8B, slice 8 to 16, bf16 blocks"
    headers = ["", "s in all", "ms a vector", "kept", "mean L", "max abs cos", "peak GPU memory"]
    if options.device != "cuda" or not torch.cuda.is_available():
        return Table(title, command, headers, [["not run: no GPU", *["-"] * 6]])
    torch.cuda.reset_peak_memory_stats()
    # blocks after the target are never run, so they are not made
    model = random_qwen2(2048, 17, d_mlp=5504, heads=16, device="cuda", dtype=torch.bfloat16)
    z = mo.slice_model(model, prompt("cuda"), source=mo.resid_post(8), target=mo.resid_post(16))
    generator = torch.Generator("cuda").manual_seed(0)
    base = mo.melbo(mo.displace(z, like=torch.zeros(2048, device="cuda")), radius=RADIUS, generator=generator)[0].vector
    goal = mo.match(z, base)
    rows = [_family(goal, base, options.family, block, generator) for block in (1, 64)]
    return Table(title, command, headers, rows)


def _family(goal: mo.Match, base: torch.Tensor, n: int, block: int, generator: torch.Generator) -> list[str]:
    settings = mo.OrthoSettings(block=block, patience=n, refresh=64, solver=mo.Lbfgs(max_steps=12))
    with Clock() as clock:
        curvature = mo.gauss_newton(goal, base, generator=generator)
        found = list(islice(mo.melbo_ortho(goal, base, seed=0, settings=settings, curvature=curvature), n))
    kept = [result for result in found if result.status not in (mo.Status.COLLAPSED, mo.Status.NONFINITE)]
    vectors = torch.stack([base, *(result.vector for result in kept)])
    loss = sum(result.loss for result in found) / n
    memory = torch.cuda.max_memory_allocated() / 1e9
    each = 1000 * clock.wall / n
    return [f"eager, block of {block}", f"{clock.wall:.0f}", f"{each:.0f}", str(len(kept)), f"{loss:.3f}",
            f"{mo.max_abs_cosine(vectors):.0e}", f"{memory:.1f} GB"]  # fmt: skip
