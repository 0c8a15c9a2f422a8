"""Factors that are known: how many of 32 planted ones do 512 estimated ones find (Mack and Turner 2024)."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

import mi_ortho as mo
from benchmarks.options import Options
from benchmarks.table import Clock, Table

D_MODEL, PLANTED, ESTIMATED = 4096, 32, 512
# mean maximal cosine, share of factors recovered to a cosine above .99: of the published notebook
PUBLISHED = {
    "as published: start from columns of V', 10 steps": (0.85, 0.25),
    "start from the Jacobian, 10 steps": None,
    "random start, 100 steps": (0.99, 0.84),
}


def planted(options: Options) -> Table:
    """Exponential DCT on a sum of 32 exponential factors in 4096 dimensions, with 512 estimated ones."""
    z, truth = planted_map()
    finished = _finished_rows(options.rows)
    rows = []
    for name, steps in zip(PUBLISHED, (10, 10, 100), strict=True):
        rows.append(finished.get(name) or _row(name, steps, z, truth))
        print(f"planted: {' | '.join(rows[-1])}", file=sys.stderr, flush=True)
        if options.rows and name not in finished:
            with options.rows.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    headers = ["", "mean max cos", "published", "recovered", "published", "CPU s"]
    return Table(
        f"{PLANTED} planted exponential factors, {ESTIMATED} estimated, d_model {D_MODEL}",
        "python -m benchmarks planted",
        headers,
        rows,
        [
            "the published numbers are those of its notebook; its planted directions are not stored, "
            "ours are independent "
            "random unit vectors of weight 1",
            "its start from the Jacobian takes columns of V' where rows were meant, and it ends before the last "
            "orthogonalisation: the first row does both, the others neither",
            "recovered: share of planted input directions with a cosine above .99 to some estimated one",
        ],
    )


def _finished_rows(rows: Path | None) -> dict[str, list[str]]:
    """The rows that a stopped benchmark left, by their name."""
    lines = rows.read_text().splitlines() if rows and rows.exists() else []
    return {row[0]: row for row in map(json.loads, lines)}


def planted_map() -> tuple[mo.FunctionMap, Tensor]:
    """sum_i (e^<v_i, theta> - 1) u_i and the v, with independent random unit v and u."""
    generator = torch.Generator().manual_seed(0)
    inward, outward = (normalize(torch.randn(PLANTED, D_MODEL, generator=generator), dim=-1) for _ in range(2))
    return mo.FunctionMap(lambda theta: torch.expm1(theta @ inward.mT) @ outward, D_MODEL), inward


def recovery(truth: Tensor, estimates: Tensor) -> tuple[float, float]:
    """Mean over the planted directions of the largest |cosine| to an estimated one, and the share above .99."""
    best = (truth @ normalize(estimates, dim=-1).mT).abs().max(dim=1).values
    return float(best.mean()), float((best > 0.99).float().mean())


def _row(name: str, steps: int, z: mo.FunctionMap, truth: Tensor) -> list[str]:
    generator = torch.Generator().manual_seed(1)
    random = mo.interventions.orthonormal_rows(torch.randn(ESTIMATED, D_MODEL, generator=generator))
    start = random if name.startswith("random") else None
    print(f"planted: {name}", file=sys.stderr, flush=True)
    with Clock() as clock:
        if name.startswith("as published"):
            fit = mo.dct.published_exponential_dct(z, ESTIMATED, radius=1.0, generator=generator, steps=steps)
        else:
            fit = mo.dct.exponential_dct(z, ESTIMATED, radius=1.0, generator=generator, steps=steps, start=start)
    mean, share = recovery(truth, fit.inputs)
    then = [f"{number:.2f}" for number in PUBLISHED[name] or ()] or ["-", "-"]
    return [name, f"{mean:.2f}", then[0], f"{share:.2f}", then[1], f"{clock.cpu:.0f}"]
