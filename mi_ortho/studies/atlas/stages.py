"""The stages of an atlas: what is cheap first, then MELBO at growing norms, one stage for each pair and norm."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.behaviours import ALIKE, INCOHERENT, likeness, readability
from mi_ortho.derivatives.means import displacement
from mi_ortho.derivatives.spectra import krylov_singular, linearise
from mi_ortho.elicitation import melbo
from mi_ortho.elicitation.objectives import displace
from mi_ortho.model import Slice, new_sinks, ordinary_activations
from mi_ortho.steering import complete, unsteered_completions
from mi_ortho.studies.atlas.bench import Bench, Pair, skip_gain
from mi_ortho.studies.shared.left_out import sinks_row

DEPTH = 3  # of the Krylov space: eight values of a flat spectrum to a tenth
Rows = list[dict[str, Any]]


def solve(bench: Bench) -> None:
    """Every stage that the run does not hold yet."""
    sources = sorted({source for source, _ in bench.pairs})
    bench.stage("unsteered", lambda: unsteered_rows(bench))
    for source in sources:
        bench.stage(f"stream {source}", lambda source=source: stream_rows(bench, source))
    for done, pair in enumerate(bench.pairs, start=1):
        bench.stage(f"spectrum {pair[0]} {pair[1]}", lambda pair=pair: spectrum_rows(bench, pair))
        bench.track("spectra", done, len(bench.pairs))
    for done, pair in enumerate(bench.pairs, start=1):
        climb(bench, pair)
        bench.track("pairs of layers", done, len(bench.pairs))


def climb(bench: Bench, pair: Pair) -> None:
    """MELBO and random vectors at one norm after the other, until most answers under MELBO cannot be read."""
    source, target = pair
    build = cache(lambda: bench.map(pair))
    for step, norm in enumerate(bench.config.norms):
        bench.stage(f"random {source} {norm:g}", lambda norm=norm: random_rows(bench, source, norm))
        name = f"melbo {source} {target} {norm:g}"
        bench.stage(name, lambda step=step, norm=norm: melbo_rows(bench, build(), pair, step, norm))
        answers = bench.rows(kind="answer", what="melbo", source=source, target=target, norm=norm)
        if mostly_unreadable(answers):
            return


def mostly_unreadable(answers: Sequence[dict[str, Any]]) -> bool:
    """Whether more than half of the answers are incoherent."""
    return 2 * sum(row["mode"] == INCOHERENT for row in answers) > len(answers)


def unsteered_rows(bench: Bench) -> Rows:
    """What the model writes without steering, the names of behaviours, and the attention sinks."""
    setting, subject = bench.setting(bench.pairs[0][0]), bench.subject
    done = unsteered_completions(setting, bench.texts[:1], int(subject.model.cfg.d_model), subject.device)[0]
    sinks = {name: value for name, value in sinks_row(setting, bench.texts).items() if name != "stream"}
    plain = {"prompt_text": bench.texts[0], "text": done.text, "mode": done.mode}
    bench.say(f"unsteered: {done.mode}: {done.text.strip()[:70]}")
    return [sinks, {"kind": "unsteered", **plain, "behaviours": list(setting.modes.behaviours)}]


def stream_rows(bench: Bench, source: int) -> Rows:
    """The median norm of the stream after a block, attention sinks left out: the unit of norms."""
    setting = bench.setting(source)
    norms = ordinary_activations(setting.model, setting.prompts(bench.texts), setting.site).norm(dim=-1)
    return [{"kind": "stream", "source": source, "stream": float(norms.median())}]


def spectrum_rows(bench: Bench, pair: Pair) -> Rows:
    """The largest singular values of the Jacobian at 0, and |J v| of random directions, in units of the skip's gain."""
    z = bench.map(pair)
    operator, skip = linearise(z, torch.zeros(z.d_model, device=bench.subject.device)), skip_gain(z)
    most = min(bench.config.values, operator.m)
    singular = krylov_singular(operator, most, bench.generator(1, *pair), depth=DEPTH, extra=0)
    typical = operator.forward(bench.random_directions(pair[0])).norm(dim=-1).median()
    return [
        {
            **{"kind": "spectrum", "source": pair[0], "target": pair[1]},
            "values": (singular.values / skip).tolist(),
            "bounds": (singular.bound / skip).tolist(),
            "typical": float(typical) / skip,
        }
    ]


def radius_of(bench: Bench, source: int, norm: float) -> float:
    """A multiple of the stream's norm in activation units."""
    return norm * float(bench.rows(kind="stream", source=source)[-1]["stream"])


def random_rows(bench: Bench, source: int, norm: float) -> Rows:
    """What the model writes under random vectors, which is the same whatever the target."""
    radius = radius_of(bench, source, norm)
    label = {"what": "random", "source": source, "norm": norm, "radius": radius}
    return answer_rows(bench, source, radius * bench.random_directions(source), label)


def melbo_rows(bench: Bench, z: Slice, pair: Pair, step: int, norm: float) -> Rows:
    """MELBO vectors of one norm: what the model writes under them, and how far they move the target."""
    radius, count = radius_of(bench, pair[0], norm), bench.config.candidates
    results = melbo(
        displace(z, like=torch.zeros(z.d_model, device=bench.subject.device)),
        radius=radius,
        n=count,
        generator=bench.generator(2, *pair, step),
        block=count,
        max_steps=bench.config.steps,
    )
    vectors = torch.stack([result.vector for result in results])
    label = {"source": pair[0], "target": pair[1], "norm": norm, "radius": radius}
    sets = {"melbo": vectors, "random": radius * bench.random_directions(pair[0])}
    responses = [{"kind": "response", "what": what, **label, **response(z, each)} for what, each in sets.items()]
    return [*answer_rows(bench, pair[0], vectors, {"what": "melbo", **label}, z), *responses]


def response(z: Slice, vectors: Float[Tensor, "n d_model"]) -> dict[str, float]:
    """Medians over vectors of |z(v) - z(0)| / |v| in units of the skip's gain, and of how linear that is.

    `linear` is the share of the squared displacement that lies along J v, `growth` the displacement over |J v|.
    """
    moved = displacement(z, vectors)
    slope = linearise(z, torch.zeros_like(vectors[0])).forward(vectors)
    size, first = moved.norm(dim=-1), slope.norm(dim=-1)
    along = (moved * slope).sum(-1) / (size * first).clamp_min(1e-30)
    return {
        "displacement": float((size / vectors.norm(dim=-1)).median()) / skip_gain(z),
        "linear": float(along.square().median()),
        "growth": float((size / first.clamp_min(1e-30)).median()),
    }


def answer_rows(
    bench: Bench, source: int, vectors: Float[Tensor, "n d_model"], label: dict[str, Any], z: Slice | None = None
) -> Rows:
    """One row a vector: the answer to the first text, its behaviour, its readability, and whether it is another one.

    With `z` also how many ordinary positions of its target become attention sinks.
    """
    sinks = [] if z is None else new_sinks(z, vectors)
    plain = bench.rows(kind="unsteered")[-1]["text"]
    return [
        {
            **{"kind": "answer", **label, "index": index, "mode": done.mode, "text": done.text},
            "readability": None if done.log_probability is None else readability(done.text, done.log_probability),
            "changed": done.mode != INCOHERENT and likeness(done.text, plain) < ALIKE,
            **({} if z is None else {"sinks": sinks[index]}),
        }
        for index, (done,) in enumerate(complete(bench.setting(source), bench.texts[:1], vectors))
    ]
