"""The command `explore`: one page to choose a vector of a family and see everything it does."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import Written
from mi_ortho.runs.directory import Run, RunError, open_run, start
from mi_ortho.runs.rows import pick
from mi_ortho.runs.settings import check_settings, settings_of
from mi_ortho.steering import Setting
from mi_ortho.studies.explore.config import ExploreConfig
from mi_ortho.studies.explore.contents import (
    Explored,
    chosen_vectors,
    explore_frame,
    explore_vector,
    unsteered_attention,
)
from mi_ortho.studies.family.finished import Source, open_source, source_subject
from mi_ortho.studies.shared.positions import sinks_of, where
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.run import perform, reopen
from mi_ortho.studies.shared.subject import Subject

REPORT = "mi_ortho.studies.explore.page:explore_report"


def explore(config: ExploreConfig, family: Path, *, fresh: bool, at: Path | None, say: Say, track: Track) -> Run:
    """Measure the vectors of a finished family run for the explorer page; continue where an earlier call stopped.

    Rows and shards go to the folder `explore` inside the family's directory, or to `at`. There is one explorer in a
    place: other settings are refused there, unless `fresh` replaces what is finished or was made with others.
    """
    _check(config)
    source = open_source(family)
    settings = settings_of(config) | {"family": source.path.name, "family_digest": _digest(source)}
    place = at or family / "explore"
    explorer = _explorer_at(place, settings, fresh=fresh)
    if explorer is not None and explorer.finished:
        return reopen(explorer, REPORT, say)
    subject = source_subject(
        source, model=config.model, device=config.device, dtype=config.dtype, remedy=", or name it by --model"
    )
    facts = subject.facts(source.config.seed, source.train[:1], source.config.system)

    def solve(run: Run) -> None:
        _solve(run, config, source, subject, track)

    return perform("explore", family, settings, facts, fresh=False, at=place, say=say, solve=solve, report=REPORT)


def _check(config: ExploreConfig) -> None:
    check_settings(config)
    if min(config.vectors, config.nearest) < 1:
        raise ValueError(
            f"got vectors={config.vectors}, nearest={config.nearest}; expected at least 1 of each; raise them"
        )


def _explorer_at(place: Path, settings: Mapping[str, object], *, fresh: bool) -> Run | None:
    """The explorer in a folder; None if there is none, or `fresh` has removed it.

    Raises:
        RunError: it is no explorer, or one of other settings, or another process writes it.
    """
    if not (place / "config.json").is_file():
        return None
    run = open_run(place)
    if "family_digest" not in run.config:
        raise RunError(
            f"got {place}, which is no explorer; expected a new folder or an explorer's; choose another --at"
        )
    differing = [key for key in {**settings, **run.config} if settings.get(key) != run.config.get(key)]
    if fresh and (run.finished or differing):
        with start(place.parent, "explore", run.config, at=place):  # refused while another process writes it
            _remove(place)
        return None
    if differing:
        difference = ", ".join(
            f"{key} is {run.config.get(key)!r} there, {settings.get(key)!r} here" for key in differing
        )
        raise RunError(
            f"got {place}, an explorer of other settings: {difference}; expected the same settings; give them, "
            "choose another --at, or replace it by --fresh"
        )
    return run


def _remove(place: Path) -> None:
    """Remove a folder, renamed first: after an interruption no half of it is left under its name."""
    leaving = place.with_name(f".{place.name}.replaced")
    shutil.rmtree(leaving, ignore_errors=True)
    place.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def _solve(run: Run, config: ExploreConfig, source: Source, subject: Subject, track: Track) -> None:
    family_config, rows = source.config, open_run(source.path).records()
    base = pick(rows, kind="base")
    natural = subject.texts.natural.get(str(base[0]["mode"]) if base else "", ())
    setting = Setting(
        subject.model,
        resid_post(family_config.layers[0]),
        where(family_config.where),
        subject.modes,
        family_config.system,
        family_config.max_new_tokens,
        family_config.temperature,
        family_config.seed,
        sinks_of(family_config.sinks, subject.model, source.train, family_config.system),
    )
    explored = Explored(
        run, setting, source.train[0], next(iter(natural), None), family_config.layers[1], config.nearest
    )
    vectors = {"base": source.base[None], **source.families}
    named = chosen_vectors({match: len(family) for match, family in source.families.items()}, config.vectors)
    texts = {
        (match, int(row["index"])): _completion_of(row)
        for match in source.families
        for row in pick(rows, kind="vector", match=match)
    }
    texts["base", 0] = _completion_of(base[0]) if base else ""
    device = torch.device(config.device)
    plain = unsteered_attention(explored)
    explore_frame(explored, plain, torch.stack([vectors[match][index] for match, index in named]).to(device), named)
    done = {(row["match"], row["index"]) for row in pick(run.records(), kind="vector")}
    for count, (match, index) in enumerate(named, start=1):
        if (match, index) not in done:
            vector = vectors[match][index].to(device)
            place = sum(name == match for name, _ in named[: count - 1])
            explore_vector(explored, plain, (match, index), vector, texts.get((match, index), ""), place)
        track("vectors", count, len(named))
    run.consolidate("drawn")
    total = sum(len(family) for family in source.families.values())
    run.summary({"headline": f"Explorer of {source.path.name}: {len(named) - 1} of {total} vectors and their base."})


def _completion_of(row: Mapping[str, Any]) -> str:
    """The completion of a row, with the tokens that the model wrote if the row has them."""
    text, ids = str(row.get("text") or ""), row.get("ids")
    return text if ids is None else Written(text, ids)


def _digest(source: Source) -> str:
    """A hash of the base and all vectors, by which an explorer of other vectors is noticed."""
    digest = hashlib.sha256()
    for vectors in (source.base, *source.families.values()):
        digest.update(vectors.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def with_model(config: ExploreConfig, family: Path) -> ExploreConfig:
    """The settings with the model of the family run if they name none."""
    name = open_run(family).config.get("model")
    return replace(config, model=config.model or (None if name is None else str(name)))
