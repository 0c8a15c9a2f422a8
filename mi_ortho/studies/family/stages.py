"""The main job: from a prompt to an orthogonal family of steering vectors, measured beside its controls.

Every stage writes its results to the run directory before the next one starts, and is skipped if they are there. So the
same command continues after any interruption and ends with the same result.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.dct import calibrate_scale
from mi_ortho.elicitation import (
    Goal,
    Progress,
    melbo,
    melbo_ortho,
    melbo_ortho_published,
    random_vectors,
)
from mi_ortho.elicitation.objectives import Match, displace, match
from mi_ortho.elicitation.orthogonal import together
from mi_ortho.elicitation.published import avoidable
from mi_ortho.elicitation.search import SearchResult, Status
from mi_ortho.interventions.subspace import max_abs_cosine
from mi_ortho.model import new_sinks
from mi_ortho.runs.directory import RunError
from mi_ortho.steering import Yardstick, complete, measure_graded, unsteered_completions, yardstick
from mi_ortho.steering.files import load_vectors
from mi_ortho.studies.family.controls import measure_controls, measure_means, predict_linear, random_base, shrink_family
from mi_ortho.studies.family.finished import MATCHES, ortho_settings
from mi_ortho.studies.family.job import BATCH, Job, goal_of, preconditioned, record_measurements
from mi_ortho.studies.family.own_answers import require_effect, with_own_answers
from mi_ortho.studies.family.radius import find_radius
from mi_ortho.studies.shared.left_out import sinks_row


def solve(job: Job) -> None:
    """Run every stage that the run directory does not hold yet, up to the measured family and its controls."""
    unsteered(job)
    base = choose_base(job, candidates(job))
    job = with_own_answers(job, base)
    activation = match(job.z, base)
    yard = yardstick(job.setting, job.train, base, activation, answer_tokens=job.config.answer_tokens)
    measure_base(job, yard, base)
    for name in MATCHES:
        count = job.config.n if name == "activation" else job.config.n_kl
        if count:
            family = grow(job, yard, name, base, count)
            measure_controls(job, yard, name, family, base)
            measure_means(job, yard, name, family)
            if job.config.shrink:
                shrink_family(job, goal_of(job, yard, name, base), name, family, base)
    predict_linear(job, base)
    random_base(job, base)


def unsteered(job: Job) -> None:
    """Record what the model writes without steering, and which positions are never steered (attention sinks)."""
    job.stage("sinks", lambda: [sinks_row(job.setting, [*job.train, *job.held_out])], kind="sinks")
    job.stage("unsteered", lambda: _unsteered_rows(job), kind="unsteered")


def _unsteered_rows(job: Job) -> list[dict[str, Any]]:
    texts = [*job.train, *job.held_out]
    done = unsteered_completions(job.setting, texts, job.z.d_model, job.device)
    job.say(f"unsteered: {done[0].mode}: {_short(done[0].text)}")
    return [
        {
            "kind": "unsteered",
            "prompt": index,
            "role": "train" if index < len(job.train) else "held_out",
            "prompt_text": text,
            "text": completion.text,
            "mode": completion.mode,
        }
        for index, (text, completion) in enumerate(zip(texts, done, strict=True))
    ]


def candidates(job: Job) -> Float[Tensor, "n d_model"]:
    """MELBO vectors, or the base from the user's file. Their completions and those of random vectors are recorded."""
    job.stage("candidates", lambda: _search_rows(job), kind="melbo_search")
    vectors = job.run.load_tensors("candidates")["melbo"].to(job.device)
    objectives = job.rows(kind="melbo_search")[-1]["objectives"]
    controls = random_vectors(max(8, len(vectors)), vectors.shape[1], float(vectors[0].norm()), job.generator(2))
    for kind, batch, scores in (("melbo", vectors, objectives), ("melbo_control", controls, [])):
        job.stage(
            kind, lambda kind=kind, batch=batch, scores=scores: _completion_rows(job, kind, batch, scores), kind=kind
        )
    return vectors


def _search_rows(job: Job) -> list[dict[str, Any]]:
    vectors, objectives = (_base_from_file(job), [None]) if job.config.base else _melbo_candidates(job)
    job.run.save_tensors("candidates", {"melbo": vectors})
    return [{"kind": "melbo_search", "objectives": objectives, "norm": float(vectors[0].norm())}]


def _completion_rows(
    job: Job, kind: str, vectors: Float[Tensor, "n d_model"], objectives: Sequence[float | None]
) -> list[dict[str, Any]]:
    sinks = new_sinks(job.positions, vectors)
    return [
        {
            "kind": kind,
            "index": index,
            "norm": float(vectors[index].norm()),
            "mode": done[0].mode,
            "text": done[0].text,
            "modes": [each.mode for each in done],
            "objective": objectives[index] if index < len(objectives) else None,
            "sinks": sinks[index],
        }
        for index, done in enumerate(complete(job.setting, job.train, vectors))
    ]


def _melbo_candidates(job: Job) -> tuple[Tensor, list[float | None]]:
    config = job.config
    z = job.read_by(config.melbo_readout)
    objective = displace(z, like=torch.zeros(z.d_model, device=job.device))
    layers = f"block {config.source} to {config.target}"
    if config.radius == "auto":
        job.say(f"MELBO: {config.candidates} orthogonal vectors, {layers}, at growing norms")
        taken = find_radius(job, objective)
        return taken.vectors, list(taken.displacements)
    radius = config.radius
    if not isinstance(radius, float | int):
        radius = calibrate_scale(job.z, generator=job.generator(1))
    job.say(f"MELBO: {config.candidates} orthogonal vectors of norm {radius:.3g}, {layers}")
    results = melbo(
        objective, radius=radius, n=config.candidates, generator=job.generator(0), block=config.candidate_block
    )
    return torch.stack([result.vector for result in results]), [result.loss for result in results]


def _base_from_file(job: Job) -> Tensor:
    vectors = load_vectors(Path(str(job.config.base))).vectors
    if vectors.shape[1] != job.z.d_model:
        raise ValueError(
            f"got base vectors of width {vectors.shape[1]} in {job.config.base}; expected {job.z.d_model}, "
            "the model's d_model; use a vector made for this model"
        )
    return vectors[:1].to(job.device, torch.float32)


def choose_base(job: Job, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " d_model"]:
    """The candidate that shows the configured behaviour on most training prompts; of equals, that of largest objective.

    One that turns ordinary positions into attention sinks is taken only where all do: its activations are those of the
    sinks, which no orthogonal vector repeats.

    A candidate whose behaviour is the unsteered one, or that no rule recognises, is never the base: almost any vector
    would keep such a behaviour. The user's own base may be: it is compared by its answers (`with_own_answers`).

    Raises:
        ValueError: no candidate shows it, or the user's own base changes nothing or makes the model write nonsense.
    """
    unsteered_row, rows = job.rows(kind="unsteered")[0], job.rows(kind="melbo")
    if job.config.base:
        require_effect(job, rows[0], unsteered_row)
        return vectors[0].clone()
    behaviour, names = job.config.behaviour, job.setting.modes.behaviours
    new = [row for row in rows if row["mode"] != unsteered_row["mode"] and row["mode"] in names]
    changed = [row["mode"] for row in sorted(new, key=lambda row: bool(row.get("sinks")))]
    if behaviour == "auto":
        behaviour = "code" if "code" in changed else next(iter(changed), None)
    able = [row for row in rows if row["mode"] == behaviour and behaviour in changed]
    if not able:
        modes = ", ".join(sorted({str(row["mode"]) for row in rows}))
        raise ValueError(
            f"got no MELBO vector of {len(rows)} with behaviour {job.config.behaviour!r} on {job.train[0]!r} "
            f"(they show: {modes}; unsteered: {unsteered_row['mode']}); expected at least one that shows what the "
            "model does not show by itself; change --radius, --source, --target or --behaviour, write a rule into "
            "modes.json, or give one of them with --base, to compare answers with its own"
        )
    best = max(
        able,
        key=lambda row: (
            not row.get("sinks"),
            sum(mode == behaviour for mode in row["modes"]),
            row["objective"] or 0.0,
        ),
    )
    job.say(f"base: MELBO vector {best['index']} ({best['mode']}): {_short(str(best['text']))}{_sinking(best)}")
    return vectors[int(best["index"])].clone()


def _sinking(row: Mapping[str, Any]) -> str:
    count = row.get("sinks")
    return f" (it makes attention sinks of {count} positions)" if count else ""


def measure_base(job: Job, yard: Yardstick, base: Float[Tensor, " d_model"]) -> None:
    """Record the measurements of the base itself, with which those of the family are compared."""

    def compute() -> list[dict[str, Any]]:
        row = measure_graded(yard, base[None], job.held_out)[0]
        index = next(
            (k for k, v in enumerate(job.run.load_tensors("candidates")["melbo"]) if torch.equal(v, base.cpu())), 0
        )
        job.run.save_tensors("vectors/base", {"base": base})
        sinks, positions = new_sinks(job.positions, base[None])[0], int(job.positions.real.sum())
        return [{"kind": "base", "index": index, "sinks": sinks, "positions": positions, **row}]

    job.stage("base", compute, kind="base")


def grow(
    job: Job, yard: Yardstick, name: str, base: Float[Tensor, " d_model"], count: int
) -> Float[Tensor, "k d_model"]:
    """The orthogonal family of one match, searched and measured.

    With `until_lost` in portions that are measured before the next is searched for: the family ends with the portion
    after which so many vectors in a row show the base's behaviour no more.
    """
    goal, lost = goal_of(job, yard, name, base), job.config.until_lost
    for upto in [*range(BATCH, count, BATCH), count] if lost else [count]:
        family = search(job, name, goal, base, upto)[:upto]
        measure_family(job, yard, name, family)
        # those of this portion only: a run that is continued holds the later ones already
        keeps = [bool(row["keeps"]) for row in job.rows(kind="vector", match=name) if int(row["index"]) < upto]
        if len(family) < upto or (lost and len(keeps) >= lost and not any(keeps[-lost:])):
            break
    return family


def search(job: Job, name: str, goal: Goal, base: Float[Tensor, " d_model"], count: int) -> Float[Tensor, "k d_model"]:
    """The orthogonal family of one match. Every vector is on disk before the next search starts.

    The vectors of one block are searched for, and recorded, together.
    """
    block = job.config.block if job.config.solver == "projected" else 1
    past = list({row["attempt"]: row for row in job.rows(kind="search", match=name)}.values())
    if block > 1 and not _is_over(past, count, job.config.patience):  # earlier versions recorded parts of blocks
        past = past[: len(past) // block * block]
    vectors = _load_vectors(job, name, sum(row["kept"] for row in past))
    if _is_over(past, count, job.config.patience):
        return vectors
    started = time.perf_counter()
    trailing = len(past) - max((k + 1 for k, row in enumerate(past) if row["kept"]), default=0)
    published = job.config.solver == "published" and isinstance(goal, Match)
    avoided = _vectors_to_avoid(job, name, past, vectors) if published else vectors
    results = _searches(job, name, goal, base, Progress(avoided, len(past), trailing))
    attempt = len(past)
    while len(vectors) < count:
        size = 1 if block == 1 else together(ortho_settings(job.config, 1.0), job.z.d_model - 1 - len(vectors))
        batch = list(islice(results, size))
        if not batch:
            break
        rows = []
        for result in batch if job.config.until_lost else batch[: _count_until(batch, count - len(vectors))]:
            good = _is_good(result)
            if good:
                job.run.save_tensors(f"vectors/{name}/{len(vectors):06d}", {"vector": result.vector})
                vectors = torch.cat([vectors, result.vector[None]])
            now = time.perf_counter()
            row = {
                "kind": "search",
                "match": name,
                "attempt": attempt + len(rows),
                "kept": good,
                "index": len(vectors) - 1 if good else None,
                "status": result.status.name,
                "norm": float(result.vector.norm()),
                "goal": result.loss,
                "evaluations": result.evaluations,
                "seconds": now - started,
            }
            if published and not good and avoidable(result):  # later vectors avoid it, after an interruption too
                job.run.save_tensors(f"avoided/{name}/{attempt + len(rows):06d}", {"vector": result.vector})
                row["avoided"] = True
            rows.append(row)
            started = now
        if block > 1:
            job.run.record_stage(f"{name} search, from {attempt}", rows)
        else:
            job.run.record(rows[0])
        attempt += len(rows)
        job.track(f"{name} match", len(vectors), count)
    return vectors


def _vectors_to_avoid(
    job: Job, name: str, past: Sequence[dict[str, Any]], vectors: Float[Tensor, "k d_model"]
) -> Float[Tensor, "n d_model"]:
    """The vectors that the published loop keeps later ones orthogonal to: kept and collapsed ones, in search order."""
    rows = []
    for row in past:
        if row["kept"]:
            rows.append(vectors[row["index"]])
        elif row.get("avoided"):
            rows.append(job.run.load_tensors(f"avoided/{name}/{row['attempt']:06d}")["vector"].to(vectors))
    return torch.stack(rows) if rows else vectors


def _is_good(result: SearchResult) -> bool:
    return result.status not in (Status.COLLAPSED, Status.NONFINITE)


def _count_until(results: Sequence[SearchResult], count: int) -> int:
    """How many results, from the first, contain `count` good ones; all of them if fewer are good."""
    good = [k for k, result in enumerate(results, start=1) if _is_good(result)]
    return good[count - 1] if len(good) >= count else len(results)


def _is_over(past: Sequence[dict[str, Any]], count: int, patience: int) -> bool:
    kept = sum(bool(row["kept"]) for row in past)
    return kept >= count or (len(past) >= patience and not any(row["kept"] for row in past[-patience:]))


def _load_vectors(job: Job, name: str, count: int) -> Float[Tensor, "k d_model"]:
    rows, width = job.run.load_rows("vectors").get(name), job.z.d_model
    if not count:
        return torch.zeros(0, width, device=job.device)
    if rows is None or len(rows) < count or rows.shape[1:] != (width,) or not rows[:count].isfinite().all():
        content = "no vectors" if rows is None else f"{len(rows)} vectors of shape {tuple(rows.shape[1:])}"
        raise RunError(
            f"got {content} for the {name} match in {job.run.path}; expected the {count} finite ones of width {width} "
            "that its records name; restore the files, or start anew with --fresh or another --at"
        )
    return rows[:count].to(job.device)


def _searches(
    job: Job, name: str, goal: Goal, base: Float[Tensor, " d_model"], progress: Progress
) -> Iterator[SearchResult]:
    config = job.config
    if config.solver == "published" and isinstance(goal, Match):
        steps = config.max_steps or 1000
        return melbo_ortho_published(
            goal, base, seed=config.seed, max_steps=steps, patience=config.patience, resume=progress
        )
    job.say(f"{name} match: preparing the Gauss-Newton preconditioner")
    settings, curvature = preconditioned(job, goal, base, float(base.norm()), stream=3)
    return melbo_ortho(goal, base, seed=config.seed, settings=settings, curvature=curvature, resume=progress)


def measure_family(job: Job, yard: Yardstick, name: str, family: Float[Tensor, "k d_model"]) -> None:
    """Record the measurements of every vector of a family."""
    label = {"kind": "vector", "match": name}
    record_measurements(job, yard, family, label, f"{name} match: measuring", job.held_out, measure_graded)


def cosines(job: Job) -> dict[str, float]:
    """Largest |cosine| over all pairs of each family, its base included."""
    rows = job.run.load_rows("vectors")
    return {m: max_abs_cosine(torch.cat([rows["base"].reshape(1, -1), rows[m]])) for m in MATCHES if m in rows}


def _short(text: str, limit: int = 70) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
