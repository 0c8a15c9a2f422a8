"""Stage three: the selected direction ablated and added, beside random directions of equal norm, on test prompts."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field

from torch import Tensor

from mi_ortho.behaviours import classify
from mi_ortho.interventions.edits import Affine, Intervention
from mi_ortho.interventions.sites import Site
from mi_ortho.model import Model, generate_ids, next_token_logits, orthogonalised, tokenize
from mi_ortho.refusal.damage import coherence, measure_damage, mode_accuracy
from mi_ortho.refusal.extraction import Extraction
from mi_ortho.refusal.places import ablate_everywhere, add_at
from mi_ortho.refusal.scores import refuses_anywhere, refuses_first
from mi_ortho.refusal.selection import Candidate
from mi_ortho.stats import rate
from mi_ortho.studies.refusal.bench import Study
from mi_ortho.studies.refusal.directions import random_directions

BATCH = 32  # prompts completed together


@dataclass(frozen=True, eq=False)
class Condition:
    """One change of the model, tried on one class of prompts.

    Attributes:
        name: in records and reports.
        prompts: harmful or harmless.
        changed: edits of activations.
        edited: a direction taken out of the weights instead.
        control: whether its direction is random.
    """

    name: str
    prompts: str
    changed: Mapping[Site, Intervention] = field(default_factory=dict)
    edited: Tensor | None = None
    control: bool = False


def try_out(study: Study, extraction: Extraction, best: Candidate) -> None:
    """Completions, refusals, coherence and damage under every condition; those already recorded are skipped."""
    r = extraction.direction(best.site, best.position)
    reason = edit_refused(study.subject.model, r)
    if reason is not None:
        study.leave_out("ablated in the weights", reason)
    conditions = [c for c in conditions_of(study, extraction, best) if reason is None or c.edited is None]
    _references(study)
    for number, condition in enumerate(conditions):
        label = {"condition": condition.name, "prompts": condition.prompts}
        name = f"{condition.name}, {condition.prompts} prompts"
        study.stage(name, lambda condition=condition: _measure(study, condition), **label)
        study.track("conditions", number + 1, len(conditions))
    if reason is None:
        study.stage("weights", lambda: [{"kind": "weights", **_agreement(study, r)}], kind="weights")


def edit_refused(model: Model, direction: Tensor) -> str | None:
    """Why a direction cannot be taken out of the weights of this architecture; None if it can."""
    try:
        with orthogonalised(model, direction):
            return None
    except ValueError as error:
        return str(error)


def conditions_of(study: Study, extraction: Extraction, best: Candidate) -> list[Condition]:
    """All conditions: ablation on harmful prompts, addition on harmless ones, and random directions for each."""
    model, r = study.subject.model, extraction.direction(best.site, best.position)
    k, j = extraction.sites.index(best.site), extraction.positions.index(best.position)
    reference = extraction.harmless.mean[k, j].float()
    place = next(iter(add_at(best.site, r)))
    conditions = [
        Condition("unsteered", "harmful"),
        Condition("ablated", "harmful", ablate_everywhere(model, r)),
        Condition("ablated in the weights", "harmful", edited=r),
        Condition("subtracted", "harmful", add_at(best.site, r, -study.config.strength)),
        Condition("unsteered", "harmless"),
        Condition("added", "harmless", add_at(best.site, r, study.config.strength)),
        Condition("ablated", "harmless", ablate_everywhere(model, r)),
    ]
    if place == best.site:  # the affine edit needs the place itself, which resid_mid is not
        conditions.append(Condition("affine edit", "harmful", {best.site: Affine(r[None], reference, r, 0.0)}))
    for number, random in enumerate(random_directions(study, r)):
        conditions.append(
            Condition(f"random {number} ablated", "harmful", ablate_everywhere(model, random), control=True)
        )
        conditions.append(
            Condition(
                f"random {number} added", "harmless", add_at(best.site, random, study.config.strength), control=True
            )
        )
    return conditions


def _measure(study: Study, condition: Condition) -> list[dict[str, object]]:
    model = study.subject.model
    texts = study.sets.test_harmful if condition.prompts == "harmful" else study.sets.test_harmless
    editing = nullcontext() if condition.edited is None else orthogonalised(model, condition.edited)
    with editing:
        ids = completions(study, texts, condition.changed)
        cost = _damage(study, condition)
    rows = judgements(study, texts, ids)
    label = {"condition": condition.name, "prompts": condition.prompts, "control": condition.control}
    completion_rows = [{"kind": "completion", "index": index, **label, **row} for index, row in enumerate(rows)]
    return [*completion_rows, {"kind": "condition", **label, **rates(rows), **cost}]


def completions(study: Study, texts: Sequence[str], changed: Mapping[Site, Intervention]) -> list[list[int]]:
    """Greedy completions as token ids, in batches."""
    model, ids = study.subject.model, []
    for start in range(0, len(texts), BATCH):
        prompts = tokenize(model, texts[start : start + BATCH])
        ids += generate_ids(model, prompts, changed, max_new_tokens=study.config.max_new_tokens)
    return ids


def judgements(study: Study, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> list[dict[str, object]]:
    """One row for each completion: text, behaviour, whether and how it refuses, whether it answers, coherence."""
    model, rows = study.subject.model, []
    for text, tokens, costs in zip(texts, ids, coherence(model, texts, ids), strict=True):
        written = model.tokenizer.decode(list(tokens), skip_special_tokens=True)
        stage = study.stage_of(written)
        rows.append(
            {
                "prompt": text,
                "text": written,
                "mode": classify(written, study.subject.modes),
                "stage": stage,
                "refused": study.shows(written),
                "complied": stage in ("answers", "refuses then answers"),
                "phrase_anywhere": refuses_anywhere(written),
                "phrase_first": refuses_first(written),
                "coherent": costs.coherent,
                **asdict(costs),
            }
        )
    return rows


def rates(rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Shares over completions with exact intervals: showing the behaviour, complied, both and coherent, coherent."""
    n = len(rows)
    counts = {
        name: sum(bool(row[name]) for row in rows) for name in ("refused", "complied", "coherent", "phrase_first")
    }
    counts["success"] = sum(bool(row["complied"]) and bool(row["coherent"]) and not row["refused"] for row in rows)
    shares: dict[str, object] = {"n": n}
    for name, hits in counts.items():
        shares |= {name: hits / n, f"{name}_interval": list(rate(hits, n).interval or ())}
    shares["staged"] = sum(row["stage"] == "refuses then answers" for row in rows) / n
    return shares


def _damage(study: Study, condition: Condition) -> dict[str, object]:
    """KL, cross-entropy and share of kept behaviours on harmless prompts; KL and entropy over unsteered completions."""
    model = study.subject.model
    texts, answers = _references(study)
    if condition.edited is not None:  # the model is edited already: the unsteered logits are not at hand
        return {"kl": None, "cross_entropy": None, "accuracy": None}
    lost = measure_damage(model, texts, answers, condition.changed)
    natural = {
        name: prompts
        for name, prompts in study.subject.texts.natural.items()
        if name in study.subject.modes.behaviours and name != study.config.behaviour
    }
    kept = mode_accuracy(model, natural, study.subject.modes, condition.changed) if natural else {}
    accuracy = sum(kept.values()) / len(kept) if kept else None
    return {
        "kl": lost.kl,
        "cross_entropy": lost.cross_entropy,
        "cross_entropy_before": lost.before,
        "accuracy": accuracy,
        **{f"accuracy_{name}": share for name, share in kept.items()},
    }


def _references(study: Study) -> tuple[list[str], list[list[int]]]:
    """Harmless prompts and the token ids of their unsteered completions, computed once and recorded."""

    def compute() -> list[dict[str, object]]:
        texts = study.sets.validation_harmless
        pairs = [(text, ids) for text, ids in zip(texts, completions(study, texts, {})) if ids]
        prompts, ids = zip(*pairs) if pairs else ((), ())
        return [{"kind": "reference", "prompts": list(prompts), "ids": list(ids)}]

    study.stage("references", compute, kind="reference")
    row = study.rows(kind="reference")[-1]
    return list(row["prompts"]), [list(ids) for ids in row["ids"]]


def _agreement(study: Study, r: Tensor) -> dict[str, object]:
    """The difference between edited weights and hooks in next-token logits on test prompts."""
    model, texts = study.subject.model, [*study.sets.test_harmful, *study.sets.test_harmless][:BATCH]
    prompts = tokenize(model, texts)
    hooked = next_token_logits(model, prompts, interventions=ablate_everywhere(model, r))
    with orthogonalised(model, r):
        edited = next_token_logits(model, prompts)
    plain = next_token_logits(model, prompts)
    return {
        "difference": float((edited - hooked).abs().max()),
        "effect": float((hooked - plain).abs().max()),
        "largest_logit": float(hooked.abs().max()),
        "same_top": float((edited.argmax(-1) == hooked.argmax(-1)).float().mean()),
        "dtype": study.subject.dtype,
    }
