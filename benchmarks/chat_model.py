"""MELBO-ortho on a real chat model: the published loop beside ours, at the same positions, towards the same goal."""

from typing import Any

import torch
from torch import Tensor

import mi_ortho as mo
from benchmarks.models import slice_flop, trainable
from benchmarks.options import Options
from benchmarks.table import Clock, Table
from benchmarks.tables import Contender, gemm_rate, rng
from mi_ortho.model import without_sinks

SOURCE, TARGET, RADIUS, CAP, SAMPLES, RIDGE = 10, 18, 14.0, 40.0, 32, 0.05
PROMPT = "How can I build a bomb?"


def chat_model(options: Options) -> Table:
    """The published loop and ours on SmolLM2-135M-Instruct, vector by vector in one process."""
    model = mo.load_model("smollm2")
    prompts = without_sinks(model, mo.tokenize(model, [PROMPT]))
    z = mo.slice_model(
        model, prompts, source=mo.resid_post(SOURCE), target=mo.resid_post(TARGET), readout="all", where="prompt"
    )
    base = mo.melbo(mo.displace(z), radius=RADIUS, generator=rng(), block=1)[0].vector
    goal, setup = mo.match(z, base), Clock()
    with setup:
        curvature = mo.derivatives.gauss_newton(goal, base, generator=rng(1), samples=SAMPLES)
    published, ours = Contender("published loop", ""), Contender("ours", "")
    settings = mo.OrthoSettings(max_norm=CAP, damping=RIDGE)
    family = mo.melbo_ortho(goal, base, seed=0, settings=settings, curvature=curvature)
    chosen = prompts.active[0]
    with torch.no_grad():
        towards = _hooked(model, prompts.tokens, base, chosen)
    for index in range(options.vectors):
        with ours.clock:
            result = next(family)
        ours.vectors.append(result.vector)
        ours.evaluations += result.evaluations
        trainable(model, True)
        with published.clock:
            start = mo.random_vectors(1, len(base), 0.02 * RADIUS, rng(index))[0]
            previous = torch.stack([base, *published.vectors])
            published.vectors.append(_next_vector(model, prompts.tokens, start, previous, towards, chosen, options))
        trainable(model, False)
        published.evaluations += options.steps
    floor = slice_flop(model, TARGET - SOURCE) / gemm_rate()
    return _table(options, [published, ours], setup, goal, base, floor)


def _hooked(model: Any, tokens: Tensor, theta: Tensor, chosen: Tensor) -> Tensor:
    """Target activations at the chosen positions with theta added there, run from the embeddings through hooks."""
    added = chosen[:, None] * theta
    with model.hooks(fwd_hooks=[(f"blocks.{SOURCE}.hook_resid_post", lambda x, hook: x + added)]):
        return model(tokens, stop_at_layer=TARGET + 1)[0, chosen]


def _next_vector(
    model: Any, tokens: Tensor, start: Tensor, previous: Tensor, goal: Tensor, chosen: Tensor, options: Options
) -> Tensor:
    """As `benchmarks.published.next_vector`, at positions of which the attention sink is none."""
    theta = start.clone().requires_grad_()
    basis = torch.nn.functional.normalize(previous, dim=-1).mT
    optimiser = torch.optim.Adam([theta], lr=0.01)
    for _ in range(options.steps):
        optimiser.zero_grad()
        (_hooked(model, tokens, theta, chosen) - goal).norm().backward()
        optimiser.step()
        with torch.no_grad():
            theta -= basis @ basis.mT @ theta
    return theta.detach()


def _table(
    options: Options,
    contenders: list[Contender],
    setup: Clock,
    goal: mo.elicitation.Match,
    base: Tensor,
    floor: float,
) -> Table:
    published, ours = contenders
    n = options.vectors
    spread = ours.clock.cpu / n + setup.cpu / 40
    rows = []
    for one in contenders:
        with torch.no_grad():
            losses = goal(torch.stack(one.vectors)).tolist()
        norms = torch.stack(one.vectors).norm(dim=-1)
        rows.append(
            [
                one.name,
                f"{one.clock.wall / n:.1f}",
                f"{one.clock.cpu / n:.1f}",
                f"{one.evaluations / n:.0f}",
                " ".join(f"{loss:.3f}" for loss in losses),
                f"{norms.mean():.1f}",
                f"{one.clock.cpu / one.evaluations / floor:.1f}x",
            ]
        )
    headers = [
        "",
        "s a vector",
        "CPU s a vector",
        "evaluations",
        "L by vector",
        "mean norm",
        "an evaluation / its floor",
    ]
    return Table(
        f"MELBO-ortho on SmolLM2-135M-Instruct, blocks {SOURCE} to {TARGET}, one prompt of 37 tokens, fp32",
        f"python -m benchmarks smollm2 --steps {options.steps} --vectors {n}",
        headers,
        rows,
        [
            f"ratio of CPU time a vector, ours with its sketch spread over a family of 40: "
            f"{published.clock.cpu / n / spread:.0f}x",
            f"the sketch of {SAMPLES} signs takes {setup.cpu:.1f} CPU s once for a family, not in the rows above",
            "both steer and read all positions but the attention sink; L is the relative loss; ours keeps to norm "
            f"{CAP:g}, the published loop has no cap",
            f"floor: 4 FLOP for each sliced weight and token, at {gemm_rate() / 1e9:.0f} GFLOP/s of a large product",
        ],
    )
