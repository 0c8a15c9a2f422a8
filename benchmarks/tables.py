"""What is measured: one function per table."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

import mi_ortho as mo
from benchmarks.models import prompt, random_qwen2, slice_flop, trainable
from benchmarks.options import Options
from benchmarks.published import hooked_mean, next_vector
from benchmarks.table import Clock, Table, interleaved, peak_memory, quietest, restart_peak

SOURCE, TARGET, RADIUS = 2, 5, 4.0
SHAPE = "random Qwen2, d_model 256, 8 layers, block weights doubled, one prompt of 37 tokens, slice 2 to 5, fp32"


def rng(seed: int = 0) -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def small() -> tuple[Any, mo.Slice]:
    """The benchmark's model and slice."""
    model = random_qwen2(256, 8, d_mlp=704, heads=8)
    z = mo.slice_model(model, prompt(), source=mo.resid_post(SOURCE), target=mo.resid_post(TARGET))
    return model, z


def gemm_rate() -> float:
    """Floating-point operations a processor second in a large matrix product."""
    a = torch.randn(1024, 1024)
    (seconds,) = interleaved([lambda: a @ a], 9)
    return 2 * 1024**3 / seconds


@dataclass
class Contender:
    """One way to make the family: its clock, its vectors and how often it evaluated the model."""

    name: str
    memory: str
    clock: Clock = field(default_factory=Clock)
    vectors: list[Tensor] = field(default_factory=list)
    evaluations: float = 0.0

    def cells(self, goal: mo.elicitation.Match, base: Tensor, floor: float) -> list[str]:
        """The contender's row."""
        n, vectors = len(self.vectors), torch.stack(self.vectors)
        with torch.no_grad():
            losses = goal(vectors)
        calls, each = self.evaluations / n, " ".join(f"{loss:.3f}" for loss in losses.tolist())
        cosine = mo.max_abs_cosine(torch.cat([base[None], vectors]))
        return [
            self.name,
            f"{self.clock.wall / n:.2f}",
            f"{self.clock.cpu / n:.2f}",
            f"{calls:.0f}",
            f"{losses.mean():.3f}",
            each,
            f"{vectors.norm(dim=-1).mean():.1f}",
            self.memory,
            f"{cosine:.0e}",
            f"{floor * calls:.3f}",
            f"{self.clock.cpu / self.evaluations / floor:.1f}x",
        ]


def orthogonal(options: Options) -> Table:
    """The published MELBO-ortho loop against ours, vector by vector in one process."""
    model, z = small()
    base = mo.melbo(mo.displace(z), radius=RADIUS, generator=rng())[0].vector
    goal, setup = mo.match(z, base), Clock()
    with setup:
        curvature = mo.derivatives.gauss_newton(goal, base, generator=rng(1))
    published, plain, ours = (Contender(name, _memory(name)) for name in CONTENDERS)
    curvatures = ((plain, None), (ours, curvature))
    families = [(who, mo.melbo_ortho(goal, base, seed=0, curvature=matrix)) for who, matrix in curvatures]
    for index in range(options.vectors):
        _publish(published, model, base, index, options.steps)
        for contender, family in families:
            with contender.clock:
                result = next(family)
            contender.vectors.append(result.vector)
            contender.evaluations += result.evaluations
    floor = slice_flop(model, TARGET - SOURCE) / gemm_rate()
    rows = [contender.cells(goal, base, floor) for contender in (published, plain, ours)]
    return _orthogonal_table(options, rows, setup, published, plain, ours)


def _publish(published: Contender, model: Any, base: Tensor, index: int, steps: int) -> None:
    with torch.no_grad():
        goal = hooked_mean(model, prompt(), base, SOURCE, TARGET)
    start = mo.random_vectors(1, len(base), 0.02 * RADIUS, rng(index))[0]
    previous = torch.stack([base, *published.vectors])
    trainable(model, True)
    with published.clock:
        vector = next_vector(model, prompt(), start, previous, goal, source=SOURCE, target=TARGET, steps=steps)
    trainable(model, False)
    published.vectors.append(vector)
    published.evaluations += steps


def _orthogonal_table(
    options: Options, rows: list[list[str]], setup: Clock, published: Contender, plain: Contender, ours: Contender
) -> Table:
    n = options.vectors

    def ratio(contender: Contender, share: float) -> str:
        clock = contender.clock
        wall, cpu = clock.wall + share * setup.wall, clock.cpu + share * setup.cpu
        return f"{published.clock.wall / wall:.0f}x (CPU time: {published.clock.cpu / cpu:.0f}x)"

    headers = [
        "",
        "s a vector",
        "CPU s a vector",
        "evaluations",
        "mean L",
        "L by vector",
        "mean norm",
        "memory added, at peak",
        "max abs cos",
        "floor, s a vector",
        "an evaluation / its floor",
    ]
    command = f"python -m benchmarks orthogonal --steps {options.steps} --vectors {n}"
    return Table(
        f"MELBO-ortho: published loop and ours ({SHAPE})",
        command,
        headers,
        rows,
        [
            f"ratio of time a vector, no preconditioner: {ratio(plain, 0)}",
            f"with it, its cost spread over a family of 40: {ratio(ours, n / 40)}; paid by {n} alone: {ratio(ours, 1)}",
            f"it takes {setup.wall:.2f} s ({setup.cpu:.2f} CPU s) once for a family, not in the rows above",
            "L is the relative loss |z(v) - z(base)| / |z(0) - z(base)|: 0 is perfect, 1 is no effect",
            f"floor: 4 FLOP for each sliced weight and token, at the {gemm_rate() / 1e9:.0f} GFLOP/s "
            f"of a large product",
            "vectors were made in turn, so that other load on the machine met all",
        ],
    )


CONTENDERS = ("published loop", "ours, no preconditioner", "ours, with preconditioner")


def _memory(name: str) -> str:
    command = [sys.executable, "-m", "benchmarks", "--probe", name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() + " MB"


def probe(name: str) -> None:
    """Print how many megabytes a few steps of one loop add to the peak of a fresh process."""
    model, z = small()
    base = mo.random_vectors(1, 256, RADIUS, rng())[0]
    goal = mo.match(z, base)
    before = restart_peak()
    if name == CONTENDERS[0]:
        trainable(model, True)
        target = hooked_mean(model, prompt(), base, SOURCE, TARGET).detach()
        next_vector(model, prompt(), base / 50, base[None], target, source=SOURCE, target=TARGET, steps=5)
    else:
        curvature = mo.derivatives.gauss_newton(goal, base, generator=rng()) if name == CONTENDERS[2] else None
        list(islice(mo.melbo_ortho(goal, base, seed=0, curvature=curvature), 2))
    print(f"{(peak_memory() - before) / 2**20:.0f}")


def elicitation(options: Options) -> Table:
    """MELBO: the published AMSGrad schedule against power iteration, on the same slice."""
    _, z = small()
    objective = mo.displace(z)
    searches: dict[str, Callable[[], list[mo.SearchResult]]] = {
        "published, AMSGrad 300 steps": lambda: mo.elicitation.melbo_published(
            objective, radius=RADIUS, n=4, generator=rng()
        ),
        "power iteration, one at a time": lambda: mo.melbo(objective, radius=RADIUS, n=4, generator=rng(), block=1),
        "power iteration, block of 4": lambda: mo.melbo(objective, radius=RADIUS, n=4, generator=rng(), block=4),
    }
    rows, spent = [], []
    for name, search in searches.items():
        with Clock() as clock:
            results = search()
        spent.append(clock.cpu)
        values = torch.tensor([result.loss for result in results])
        cosine = mo.max_abs_cosine(torch.stack([result.vector for result in results]))
        calls = sum(result.evaluations for result in results) / 4
        rows.append(
            [
                name,
                f"{clock.wall / 4:.2f}",
                f"{clock.cpu / 4:.2f}",
                f"{calls:.0f}",
                f"{values.mean():.2f}",
                f"{values.max():.2f}",
                f"{cosine:.0e}",
            ]
        )
    headers = ["", "s a vector", "CPU s a vector", "evaluations", "mean objective", "best objective", "max abs cos"]
    return Table(
        f"MELBO: 4 orthogonal vectors of norm 4 ({SHAPE})",
        "python -m benchmarks elicitation",
        headers,
        rows,
        [
            f"ratio of CPU time: {spent[0] / spent[1]:.0f}x one at a time, {spent[0] / spent[2]:.0f}x in a block",
            "both run on the slice; the published code also runs the whole model at every step",
        ],
    )


def projection(options: Options) -> Table:
    """Rejecting a subspace of 1500 directions in 2048 dimensions."""
    subspace = mo.span(torch.randn(1500, 2048, generator=rng()))
    one, many = torch.randn(2048, generator=rng(1)), torch.randn(32, 2048, generator=rng(2))
    unit = subspace.basis.mT
    ways: list[tuple[str, Callable[[], Tensor], int]] = [
        ("published: one pass through a 2048 x 2048 matrix", lambda: one - unit @ unit.mT @ one, 1),
        ("two passes, one vector", lambda: subspace.reject(one), 1),
        ("two passes, batch of 32", lambda: subspace.reject(many), 32),
    ]
    seconds = interleaved([way for _, way, _ in ways], 15)
    rows = [
        [name, f"{1000 * spent / n:.2f}", f"{1000 * quietest(way, 60) / n:.2f}"]
        for (name, way, n), spent in zip(ways, seconds, strict=True)
    ]
    return Table(
        "Projection off 1500 directions, d_model 2048",
        "python -m benchmarks projection",
        ["", "CPU ms a vector, in turn (cold cache)", "ms a vector, fastest of 60"],
        rows,
    )


def step(options: Options) -> Table:
    """One forward and backward pass: through hooks, and through the slice."""
    model, z = small()
    with torch.no_grad():
        target = z(torch.zeros(1, 256))[0, 0, 0]

    def hooked(free: bool) -> Callable[[], None]:
        def run() -> None:
            trainable(model, free)
            theta = torch.full((256,), 0.1, requires_grad=True)
            (hooked_mean(model, prompt(), theta, SOURCE, TARGET) - target).norm().backward()

        return run

    def sliced(n: int) -> Callable[[], None]:
        def run() -> None:
            trainable(model, False)
            theta = torch.full((n, 256), 0.1, requires_grad=True)
            (z(theta) - target).norm(dim=-1).sum().backward()

        return run

    ways = [
        ("hooked, weights as shipped", hooked(True), 1),
        ("hooked, weights frozen", hooked(False), 1),
        ("slice", sliced(1), 1),
        ("slice, batch of 16", sliced(16), 16),
    ]
    seconds = [spent / n for spent, (_, _, n) in zip(interleaved([w for _, w, _ in ways], 15), ways, strict=True)]
    floor = slice_flop(model, TARGET - SOURCE) / gemm_rate()
    rows = [
        [name, f"{1000 * spent:.1f}", f"{seconds[0] / spent:.1f}x", f"{spent / floor:.1f}x"]
        for (name, _, _), spent in zip(ways, seconds, strict=True)
    ]
    return Table(
        f"One forward and backward pass ({SHAPE})",
        "python -m benchmarks step",
        ["", "CPU ms a vector", "speed", "time / FLOP floor"],
        rows,
    )


TABLES = {"orthogonal": orthogonal, "elicitation": elicitation, "projection": projection, "step": step}
