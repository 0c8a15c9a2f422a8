"""The norm of the base by a line search: the smallest at which a MELBO vector shows something new that can be read.

Too small a norm changes nothing and too large a one makes word salad. The window between belongs to the norm of the
residual stream, so norms are tried upwards in units of its median (attention sinks left out). The step before the first
success is then halved, and one norm beyond it is recorded, so that the figure shows what comes next. Where half of the
answers can no longer be read without a success, the norms below are tried again, with candidates found anew. A vector
that turns ordinary positions into attention sinks is no success: nothing orthogonal repeats its activations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.behaviours import INCOHERENT, readability
from mi_ortho.elicitation import melbo, random_vectors
from mi_ortho.elicitation.objectives import Displace
from mi_ortho.model import new_sinks
from mi_ortho.runs.rows import pick
from mi_ortho.steering import complete
from mi_ortho.studies.family.job import Job
from mi_ortho.studies.family.verdicts import modes_shown

GROWTH = 1.6  # from one norm to the next
TIMES = tuple(0.03 * GROWTH**k for k in range(10))  # the stream's median norm: a chat model needs .1, the organism 1.3
HALVINGS = 2  # of the last step, on a logarithmic scale: the norm is found to 12 percent
COLD, WARM = 20, 5  # steps from random vectors, at the first norm, and from those of a smaller norm
RANDOM = 8  # vectors of the same norm beside
FILE = "radius_search"  # the candidates of every norm


@dataclass(frozen=True, eq=False)
class Found:
    """The candidates of the norm that was found.

    Attributes:
        radius: their norm.
        vectors: mutually orthogonal, shape (n, d_model).
        displacements: MELBO's objective of each.
    """

    radius: float
    vectors: Float[Tensor, "n d_model"]
    displacements: list[float]


def find_radius(job: Job, objective: Displace) -> Found:
    """Try norms until a candidate shows the wanted behaviour on the first training prompt, and can be read.

    Every norm is a stage, so that an interrupted search goes on with the next one.

    Raises:
        ValueError: no candidate of any norm does; the line says what was seen.
    """
    for last in range(len(TIMES)):
        candidates = _try(job, objective, last, TIMES[last], last - 1, "up")
        if _success(job, candidates) or _unreadable(candidates):
            break
    else:
        last = len(TIMES) - 1
    taken = _narrow(job, objective, last) if _success(job, _tried(job, last)) else _anew(job, objective, last)
    if taken is None:
        raise ValueError(_nothing(job))
    rows = _tried(job, taken)
    radius, times = float(rows[0]["norm"]), float(rows[0]["times"])
    row = {"kind": "radius", "radius": radius, "times": times, "step": taken}
    job.stage("radius", lambda: [row], kind="radius")
    job.say(f"radius {radius:.3g}: {times:.2g} of the stream's median norm")
    job.run.consolidate(FILE)
    return Found(radius, _vectors(job, taken), [float(row["displacement"]) for row in rows])


def _narrow(job: Job, objective: Displace, success: int) -> int:
    """The smallest success after halving the step before the first one; one norm beyond that is recorded too."""
    step, failure = len(TIMES), success - 1
    _try(job, objective, step, TIMES[success] * GROWTH, success, "beyond")
    low, high = TIMES[max(failure, 0)], TIMES[success]
    for _ in range(HALVINGS if success else 0):  # below the first norm nothing was tried
        step, middle = step + 1, (low * high) ** 0.5
        if _success(job, _try(job, objective, step, middle, failure, "down")):
            success, high = step, middle
        else:
            failure, low = step, middle
    return success


def _anew(job: Job, objective: Displace, last: int) -> int | None:
    """The first success in the window below the last norm, with the candidates that `--radius` of each norm gives.

    Vectors that follow each other from norm to norm stay on their branches, and the wanted behaviour may be on none.
    """
    new = [step for step in range(last) if any(row["new"] for row in _tried(job, step))]
    low = max(new[0] if new else last - 2, 0)
    for half in range(2 * (last - low)):
        step, times = len(TIMES) + half, TIMES[low] * GROWTH ** (half / 2)
        if _success(job, _try(job, objective, step, times, -1, "anew")):
            return step
    return None


def _success(job: Job, rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["new"] and not row.get("sinks") and job.config.behaviour in ("auto", row["mode"]) for row in rows)


def _unreadable(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether half of the answers are incoherent: larger norms only make more so."""
    return 2 * sum(row["mode"] == INCOHERENT for row in rows) >= len(rows)


def _tried(job: Job, step: int) -> list[dict[str, Any]]:
    return job.rows(kind="radius_search", step=step, control=None)


def _try(job: Job, objective: Displace, step: int, times: float, warm: int, way: str) -> list[dict[str, Any]]:
    """The rows of the candidates of the norm `times` the stream's, recorded with those of random vectors.

    Args:
        job: the run.
        objective: MELBO's.
        step: number of the try, by which its rows and its vectors are named.
        times: the norm, in units of the stream's median.
        warm: the try from whose vectors this one starts; -1 starts from random ones.
        way: why it is tried: up, beyond, down or anew.
    """
    label = {"kind": "radius_search", "step": step}
    job.stage(f"{FILE} {step}", lambda: _rows(job, objective, step, times, warm, way), **label)
    rows = job.rows(**label)
    mine, random = pick(rows, control=None), pick(rows, control="isotropic")
    job.say(
        f"norm {rows[0]['norm']:.3g} ({times:.2g} of the stream's): {modes_shown(mine)}; of {len(random)} random "
        f"vectors {sum(row['new'] for row in random)} show anything new"
    )
    return mine


def _rows(job: Job, objective: Displace, step: int, times: float, warm: int, way: str) -> list[dict[str, Any]]:
    norm = times * float(job.rows(kind="sinks")[-1]["stream"])
    results = melbo(
        objective,
        radius=norm,
        n=job.config.candidates,
        generator=job.generator(0),
        block=job.config.candidate_block,
        max_steps=COLD if warm < 0 else WARM,
        starts=None if warm < 0 else _vectors(job, warm),
    )
    vectors = torch.stack([result.vector for result in results])
    random = random_vectors(RANDOM, vectors.shape[1], norm, job.generator(60 + step))
    with torch.no_grad():
        moved = objective(random.to(objective.baseline)).tolist()
    job.run.save_tensors(f"{FILE}/{step}", {"melbo": vectors})
    shared = {"kind": "radius_search", "step": step, "way": way, "norm": norm, "times": times}
    sets = ((None, vectors, [result.loss for result in results]), ("isotropic", random, moved))
    return [
        {**shared, "control": control, "index": index, "displacement": displacements[index], **row}
        for control, batch, displacements in sets
        for index, row in enumerate(_answers(job, batch))
    ]


def _answers(job: Job, vectors: Float[Tensor, "n d_model"]) -> list[dict[str, Any]]:
    """What the model writes to the first training prompt under each vector, and whether that is new and readable."""
    plain, names = job.rows(kind="unsteered")[0]["mode"], job.setting.modes.behaviours
    answers = [done[0] for done in complete(job.setting, job.train[:1], vectors)]
    return [
        {
            "mode": answer.mode,
            "new": answer.mode != plain and answer.mode in names,
            "readability": None if answer.log_probability is None else readability(answer.text, answer.log_probability),
            "text": answer.text,
            "sinks": count,
        }
        for answer, count in zip(answers, new_sinks(job.positions, vectors), strict=True)
    ]


def _vectors(job: Job, step: int) -> Float[Tensor, "n d_model"]:
    return job.run.load_rows(FILE)[f"{step}.melbo"].to(job.device)


def _nothing(job: Job) -> str:
    recorded = job.rows(kind="radius_search", control=None)
    norms = sorted({row["norm"] for row in recorded})
    seen = "; ".join(f"{norm:.3g}: {modes_shown(pick(recorded, norm=norm))}" for norm in norms)
    plain = job.rows(kind="unsteered")[0]["mode"]
    return (
        f"got no MELBO vector with behaviour {job.config.behaviour!r} on {job.train[0]!r} at any norm (unsteered: "
        f"{plain}; {seen}); expected one that the model does not show by itself; raise --candidates, change --source, "
        "--target, --where or --behaviour, or give --radius a number"
    )
