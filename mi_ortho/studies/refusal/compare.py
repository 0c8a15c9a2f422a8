"""Stage four: the ablation matrix, the steering circle, more than one direction, a cone, and the model's inside."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mi_ortho.interventions.edits import Above, Intervention, RotateTo, When
from mi_ortho.interventions.sites import Site, attn_pattern, mlp_out
from mi_ortho.model import Prompts, generate_ids, head_writes, read, tokenize
from mi_ortho.refusal.concepts import steering_plane
from mi_ortho.refusal.cones import ConeSettings, cone_targets, refusal_cone
from mi_ortho.refusal.extraction import Extraction, activations
from mi_ortho.refusal.places import ablate_everywhere, add_at, at_every
from mi_ortho.refusal.scores import refusal_scores
from mi_ortho.refusal.selection import Candidate
from mi_ortho.refusal.several import extract_again, null_space_rounds
from mi_ortho.runs.files import to_json, write_file
from mi_ortho.runs.rows import pick, stage
from mi_ortho.studies.refusal.bench import Study
from mi_ortho.studies.refusal.directions import validation_prompts
from mi_ortho.studies.refusal.matrix import ablation_matrix
from mi_ortho.studies.refusal.trial import judgements, rates

HEADS = 3  # heads whose attention is drawn


def compare(study: Study, extraction: Extraction, best: Candidate) -> None:
    """All comparisons with the selected direction; each part is skipped if its rows are there already."""
    r = extraction.direction(best.site, best.position)
    ablation_matrix(study, extraction, best)
    circle(study, extraction, best)
    again(study, extraction, best)
    null_space(study, best)
    cone(study, best, r)
    if not study.run.has("inside"):
        inside(study, best.site, r)


def circle(study: Study, extraction: Extraction, best: Candidate) -> None:
    """Behaviour by the angle in the plane of the direction and the first principal component of all candidates.

    Applied at the input of every block, not at the outputs of the normalisations as published (see `steering_plane`).
    The control has a random second axis; the adaptive form acts only where the direction is present.
    """
    if not study.config.angle_step:
        return
    r = extraction.direction(best.site, best.position)
    j = extraction.positions.index(best.position)
    others = extraction.differences[:, j].float()
    plane = steering_plane(r, others[others.norm(dim=-1) > 1e-6])
    axis = torch.randn(len(r), generator=study.generator(2))
    planes = {"plane": plane, "random axis": torch.stack([r, axis])}
    if not study.run.has("plane"):
        study.run.save_tensors("plane", {"plane": plane, "random": planes["random axis"]})
    degrees = list(range(0, 360, study.config.angle_step))
    jobs = [
        (name, adaptive, kind)
        for name in planes
        for adaptive in (False, True)
        for kind in ("harmful", "harmless")
        if not (adaptive and name == "random axis")
    ]
    for number, (name, adaptive, kind) in enumerate(jobs):
        _arc(study, name, planes[name], adaptive, kind, degrees)
        study.track("circle", number + 1, len(jobs))


def _arc(study: Study, name: str, plane: Tensor, adaptive: bool, kind: str, degrees: list[int]) -> None:
    texts = (study.sets.test_harmful if kind == "harmful" else study.sets.test_harmless)[: study.config.circle_prompts]
    label = {"kind": "circle", "plane": name, "adaptive": adaptive, "prompts": kind}
    per_batch = max(1, 96 // len(texts))
    for start in range(0, len(degrees), per_batch):
        part = degrees[start : start + per_batch]

        def compute(part: list[int] = part) -> list[dict[str, object]]:
            return [{**label, **row} for row in _turns(study, plane, adaptive, texts, part)]

        def old(row: dict[str, Any], part: list[int] = part) -> bool:
            return bool(pick([row], **label)) and row["degrees"] in part

        where = f"{name}{', adaptive' * adaptive}, {kind} prompts, from {part[0]}"
        stage(study.run, f"circle, {where}", compute, old=old)


def _turns(
    study: Study, plane: Tensor, adaptive: bool, texts: Sequence[str], degrees: Sequence[int]
) -> list[dict[str, object]]:
    model = study.subject.model
    angles = torch.tensor([math.radians(a) for a in degrees]).repeat_interleave(len(texts))
    turn: Intervention = RotateTo(plane, angles)
    turn = When(Above(plane[0]), turn) if adaptive else turn
    changed = at_every(model, turn, kinds=("resid_pre",))
    prompts = tokenize(model, texts).repeat(len(degrees))
    ids = generate_ids(model, prompts, changed, max_new_tokens=study.config.max_new_tokens)
    results: list[dict[str, object]] = []
    for k, angle in enumerate(degrees):
        rows = judgements(study, texts, ids[k * len(texts) : (k + 1) * len(texts)])
        results.append({"degrees": angle, "text": rows[0]["text"], **rates(rows)})
    return results


def again(study: Study, extraction: Extraction, best: Candidate) -> None:
    """Extract again at the selected site and position with all earlier directions ablated, beside as many random ones.

    The first round gives the selected direction again.
    """
    if study.config.rounds:
        study.stage("rounds", lambda: _rounds(study, extraction, best), kind="round")


def _rounds(study: Study, extraction: Extraction, best: Candidate) -> list[dict[str, object]]:
    model, sets = study.subject.model, study.sets
    tokens = tuple(study.rows(kind="refusal_tokens")[-1]["ids"])
    prompts = validation_prompts(study)[0]
    random = torch.randn(study.config.rounds, extraction.differences.shape[-1], generator=study.generator(3))
    rows: list[dict[str, object]] = []
    for one in extract_again(
        model,
        sets.train_harmful,
        sets.train_harmless,
        prompts,
        tokens,
        [best.site],
        lambda _: (best.site, best.position),
        rounds=study.config.rounds,
        positions=[best.position],
    ):
        control = ablate_everywhere(model, random[: one.number])
        rows.append(
            {
                "kind": "round",
                "number": one.number,
                "site": str(one.site),
                "position": one.position,
                "norm": one.norm,
                "cosine_before": one.cosine_before,
                "refusal": one.refusal,
                "alone": one.alone,
                "random": float(refusal_scores(model, prompts, tokens, control).mean()),
            }
        )
        study.track("rounds", one.number, study.config.rounds)
        study.run.save_tensors(f"rounds/{one.number:03d}", {"vector": one.direction})
    return rows


def null_space(study: Study, best: Candidate) -> None:
    """Linear probes projected out one after the other at the selected site, and refusal with all of them ablated."""
    if study.config.rounds:
        study.stage("probes", lambda: _probes(study, best), kind="probe")


def _probes(study: Study, best: Candidate) -> list[dict[str, object]]:
    model, sets = study.subject.model, study.sets
    tokens = tuple(study.rows(kind="refusal_tokens")[-1]["ids"])
    prompts = validation_prompts(study)
    samples = [
        activations(model, texts, [best.site], [best.position])[:, 0, 0]
        for texts in (sets.train_harmful, sets.train_harmless, *prompts)
    ]
    basis = torch.zeros(0, samples[0].shape[1])
    rows: list[dict[str, object]] = []
    for one in null_space_rounds(samples[0], samples[1], (samples[2], samples[3]), rounds=study.config.rounds):
        basis = torch.cat([basis, one.direction[None]])
        score = refusal_scores(model, prompts[0], tokens, ablate_everywhere(model, basis)).mean()
        rows.append({"kind": "probe", "number": one.number, "auc": one.auc, "refusal": float(score)})
    return rows


def cone(study: Study, best: Candidate, r: Tensor) -> None:
    """A cone of directions optimised by gradient, from the selected direction and random ones; optional."""
    if study.config.cone:
        study.stage("cone", lambda: [_cone(study, best, r)], kind="cone")


def _cone(study: Study, best: Candidate, r: Tensor) -> dict[str, object]:
    config, model, sets = study.config, study.subject.model, study.sets
    tokens = tuple(study.rows(kind="refusal_tokens")[-1]["ids"])
    prompts = validation_prompts(study)[0]
    targets = cone_targets(
        model, sets.train_harmful[:16], sets.train_harmless[:16], ablate_everywhere(model, r), add_at(best.site, r)
    )
    start = torch.cat([r[None], torch.randn(config.cone - 1, len(r), generator=study.generator(4))])
    optimum = refusal_cone(
        model,
        targets,
        start,
        best.site,
        float(r.norm()),
        settings=ConeSettings(steps=config.cone_steps),
        generator=study.generator(5),
    )
    study.run.save_tensors("cone", {"basis": optimum.basis})
    scores = [
        float(refusal_scores(model, prompts, tokens, ablate_everywhere(model, row)).mean())
        for row in (*optimum.basis, r)
    ]
    cosines = torch.nn.functional.cosine_similarity(optimum.basis, r[None]).tolist()
    return {
        "kind": "cone",
        "dimension": config.cone,
        "losses": list(optimum.losses),
        "scores": scores[:-1],
        "selected": scores[-1],
        "cosines": cosines,
    }


def inside(study: Study, site: Site, r: Tensor) -> None:
    """Projections of tokens on the direction, outputs of heads along it, and the attention of the strongest heads."""
    model, sets = study.subject.model, study.sets
    texts = {"harmful": sets.test_harmful[0], "harmless": sets.test_harmless[0]}
    unit, arrays, items = r / r.norm(), {}, []
    for kind, text in texts.items():
        whose = f"a prompt of the class {study.words.of(kind)}"
        alone = tokenize(model, [text])
        ids = generate_ids(model, alone, max_new_tokens=min(24, study.config.max_new_tokens))[0]
        written = tokenize(model, [text], answers=[ids]) if ids else alone
        arrays[f"projection_{kind}"] = read(model, written, [site])[site][0].float() @ unit.to(written.tokens.device)
        items.append(
            {
                "title": f"Projection on the direction at {site}, {whose} and its unsteered completion",
                "kind": "token_values",
                "key": f"projection_{kind}",
                "tokens": _tokens(study, written),
            }
        )
    try:
        head_arrays, head_items = _heads(study, texts, unit)
        arrays, items = arrays | head_arrays, items + head_items
    except ValueError as error:
        study.leave_out("what attention heads write", error)
    write_file(study.run.path / "inside.json", to_json({"items": items, "texts": texts}, indent=1) + "\n")
    study.run.save_tensors("inside", arrays)


def _heads(study: Study, texts: Mapping[str, str], unit: Tensor) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
    """Outputs of heads and MLPs along the direction, and the attention of the strongest heads on both prompts.

    Raises:
        ValueError: the architecture has no such heads, or changes their outputs before they are added.
    """
    model, sets = study.subject.model, study.sets
    heads, rest = zip(*(writes(study, part[:32], unit) for part in (sets.test_harmful, sets.test_harmless)))
    arrays = {"heads_harmful": heads[0], "heads_harmless": heads[1]}
    arrays |= {"mlp_harmful": rest[0], "mlp_harmless": rest[1]}
    gap = (heads[0] - heads[1]).flatten()
    strongest = [divmod(int(k), heads[0].shape[1]) for k in gap.abs().argsort(descending=True)[:HEADS]]
    items: list[dict[str, object]] = []
    for kind, text in texts.items():
        prompts = tokenize(model, [text])
        arrays[f"attention_{kind}"] = torch.stack(
            [
                read(model, prompts, [attn_pattern(layer)])[attn_pattern(layer)][0, head].float()
                for layer, head in strongest
            ]
        )
        items.append(
            {
                "title": "Attention of the heads that write the direction, "
                f"a prompt of the class {study.words.of(kind)}",
                "kind": "attention",
                "key": f"attention_{kind}",
                "tokens": _tokens(study, prompts),
                "names": [f"layer {layer}, head {head}" for layer, head in strongest],
            }
        )
    return arrays, items


def writes(study: Study, texts: Sequence[str], unit: Tensor) -> tuple[Tensor, Tensor]:
    """Mean outputs along a unit direction at the last prompt position: of heads (layer, head) and of MLPs (layer)."""
    model = study.subject.model
    prompts, sites = tokenize(model, texts), [mlp_out(layer) for layer in range(int(model.cfg.n_layers))]
    outputs = read(model, prompts, sites)
    along = torch.stack([(outputs[site][:, -1].float() @ unit.to(outputs[site].device)).mean() for site in sites])
    return head_writes(model, prompts, unit).mean(dim=-1), along


def _tokens(study: Study, prompts: Prompts) -> list[str]:
    return [study.subject.model.tokenizer.decode([token]) for token in prompts.tokens[0].tolist()]
