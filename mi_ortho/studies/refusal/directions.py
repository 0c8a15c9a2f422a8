"""Stages one and two: extraction of candidate directions, and selection of one."""

import torch

from mi_ortho.interventions.sites import Site
from mi_ortho.refusal.extraction import (
    Extraction,
    MeanAndVariance,
    difference_of_means,
    instruction_suffix,
    residual_sites,
)
from mi_ortho.refusal.rankings import compare_rankings, ranking_scores
from mi_ortho.refusal.scores import refusal_scores, refusal_tokens
from mi_ortho.refusal.selection import Candidate, Limits, Selection, candidates, filter_prompts, select, validation
from mi_ortho.runs.rows import forget
from mi_ortho.stats import percent
from mi_ortho.studies.refusal.bench import Study


def extract(study: Study) -> Extraction:
    """The means and variances of both classes over filtered training prompts, from the run if it has them."""
    tokens = _tokens(study)
    study.stage("extraction", lambda: _extraction(study, tokens), kind="extraction")
    return load_extraction(study)


def _extraction(study: Study, tokens: tuple[int, ...]) -> list[dict[str, object]]:
    model, config, sets = study.subject.model, study.config, study.sets
    positions = config.positions or instruction_suffix(model).positions
    kept = filter_prompts(model, sets.train_harmful, sets.train_harmless, tokens)
    words = study.words
    study.say(f"extracting from {len(kept.harmful)} prompts {words.shown} and {len(kept.harmless)} {words.otherwise}")
    sites = residual_sites(model, config.streams)
    extraction = difference_of_means(model, kept.harmful, kept.harmless, sites, positions)
    scores = {
        name: refusal_scores(model, texts, tokens).mean().item()
        for name, texts in (("harmful", sets.validation_harmful), ("harmless", sets.validation_harmless))
    }
    study.run.save_tensors(
        "extraction",
        {
            f"{name}.{part}": getattr(moments, part)
            for name, moments in (("harmful", extraction.harmful), ("harmless", extraction.harmless))
            for part in ("mean", "variance")
        },
    )
    return [
        {
            "kind": "extraction",
            "sites": [str(site) for site in sites],
            "positions": list(positions),
            "position_tokens": _position_tokens(study, positions),
            "harmful": len(kept.harmful),
            "harmless": len(kept.harmless),
            "dropped_harmful": kept.dropped_harmful,
            "dropped_harmless": kept.dropped_harmless,
            "score_harmful": scores["harmful"],
            "score_harmless": scores["harmless"],
        }
    ]


def load_extraction(study: Study) -> Extraction:
    """The extraction of a run directory."""
    row, tensors = study.rows(kind="extraction")[-1], study.run.load_tensors("extraction")
    classes = [
        MeanAndVariance(int(row[name]), tensors[f"{name}.mean"], tensors[f"{name}.variance"])
        for name in ("harmful", "harmless")
    ]
    return Extraction(tuple(map(Site.parse, row["sites"])), tuple(row["positions"]), *classes)


def _position_tokens(study: Study, positions: tuple[int, ...]) -> list[str]:
    from mi_ortho.model import tokenize

    ids = tokenize(study.subject.model, study.sets.train_harmless[:1]).tokens[0].tolist()
    return [study.subject.model.tokenizer.decode([ids[position]]) for position in positions]


def _tokens(study: Study) -> tuple[int, ...]:
    study.stage("refusal tokens", lambda: [_refusal_tokens(study)], kind="refusal_tokens")
    return tuple(study.rows(kind="refusal_tokens")[-1]["ids"])


def _refusal_tokens(study: Study) -> dict[str, object]:
    model, named, words = study.subject.model, study.config.refusal_tokens, study.words
    if named:
        ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in named]
        return {"kind": "refusal_tokens", "ids": ids, "texts": list(named), "named": True}
    tokens = refusal_tokens(model, study.sets.train_harmful, study.sets.train_harmless, study.shows)
    study.say(
        f"{words.noun} begins with {', '.join(map(repr, tokens.texts))}; {percent(tokens.harmful_rate)} of the "
        f"{words.first} and {percent(tokens.harmless_rate)} of the {words.second} training prompts are {words.shown}"
    )
    return {
        "kind": "refusal_tokens",
        "ids": list(tokens.ids),
        "texts": list(tokens.texts),
        "named": False,
        "harmful_rate": tokens.harmful_rate,
        "harmless_rate": tokens.harmless_rate,
    }


def validation_prompts(study: Study) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The harmful validation prompts that the model refuses and the harmless ones that it answers, as published.

    Other harmful prompts could not show that a direction stops refusal.

    Raises:
        ValueError: no prompt of a class is left.
    """
    study.stage("validation", lambda: [_validation(study)], kind="validation")
    row = study.rows(kind="validation")[-1]
    return tuple(row["harmful"]), tuple(row["harmless"])


def _validation(study: Study) -> dict[str, object]:
    sets = study.sets
    kept = filter_prompts(study.subject.model, sets.validation_harmful, sets.validation_harmless, _tokens(study))
    words = study.words
    study.say(f"validating on {len(kept.harmful)} prompts {words.shown} and {len(kept.harmless)} {words.otherwise}")
    dropped = {"dropped_harmful": kept.dropped_harmful, "dropped_harmless": kept.dropped_harmless}
    return {"kind": "validation", "harmful": list(kept.harmful), "harmless": list(kept.harmless), **dropped}


def choose(study: Study, extraction: Extraction) -> Selection:
    """Score every candidate on the validation prompts, one row each, and select one; also compare cheaper rankings."""
    config, done = study.config, [_candidate(row) for row in study.rows(kind="candidate")]
    total = len(extraction.sites) * len(extraction.positions)
    if len(done) < total:
        judge = validation(study.subject.model, *validation_prompts(study), _tokens(study))
        limits = Limits(config.kl_limit, config.induce_limit, config.last_layers)
        for index, candidate in enumerate(candidates(judge, extraction, limits, skip=len(done)), start=len(done)):
            study.run.record({"kind": "candidate", "index": index, **candidate.row()})
            done.append(candidate)
            study.track("candidates", len(done), total)
    selection = select(done)
    study.stage("selection", lambda: _selection(study, extraction, selection), kind="selection")
    study.say(f"selected {selection.best.site} at {selection.best.position}" if selection.best else selection.reason)
    return selection


def _selection(study: Study, extraction: Extraction, selection: Selection) -> list[dict[str, object]]:
    """Rows with other statistics of every candidate, their rankings, and the selected one; its direction is saved."""
    for kind in ("measures", "ranking"):  # recorded one by one in earlier versions
        forget(study.run, lambda row, kind=kind: row.get("kind") == kind)
    scores = ranking_scores(study.subject.model, extraction, *validation_prompts(study))
    flat = {name: values.flatten().tolist() for name, values in scores.items()}
    rows: list[dict[str, object]] = [
        {"kind": "measures", "index": index} | {name: flat[name][index] for name in flat}
        for index in range(len(selection.candidates))
    ]
    best = selection.best
    if best is not None:
        rows += [{"kind": "ranking", **vars(ranking)} for ranking in compare_rankings(selection.candidates, flat)]
        difference = extraction.direction(best.site, best.position)
        study.run.save_tensors("direction", {"vector": difference, "unit": difference / difference.norm()})
    return [*rows, {"kind": "selection", "reason": selection.reason, **(best.row() if best else {})}]


def _candidate(row: dict[str, object]) -> Candidate:
    """A candidate from its record, in which null stands for NaN."""
    norm, bypass, induce, kl = (
        float("nan") if row[key] is None else float(str(row[key])) for key in ("norm", "bypass", "induce", "kl")
    )
    rejected = row["rejected"]
    assert isinstance(rejected, list)
    site, position = Site.parse(str(row["site"])), int(str(row["position"]))
    return Candidate(site, position, norm, bypass, induce, kl, tuple(map(str, rejected)))


def random_directions(study: Study, like: torch.Tensor) -> torch.Tensor:
    """Controls: random directions with the norm of `like`, one a row."""
    directions = torch.randn(study.config.random, len(like), generator=study.generator(1))
    return torch.nn.functional.normalize(directions, dim=-1) * like.norm().cpu()
