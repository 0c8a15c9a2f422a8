"""The command `presence`: are a family's vectors present in activations while the model writes code unsteered?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mi_ortho.model.sinks import FACTOR
from mi_ortho.runs.directory import Run, open_run
from mi_ortho.runs.files import read_json
from mi_ortho.runs.rows import Row, forget, pick, stage
from mi_ortho.runs.settings import check_settings, settings_of
from mi_ortho.studies.family.finished import FamilyVectors, newest_family, open_family
from mi_ortho.studies.presence.config import PresenceConfig
from mi_ortho.studies.presence.layers import Effort, layer_rows, probe_rows
from mi_ortho.studies.presence.moments import strongest_rows, token_rows
from mi_ortho.studies.presence.passages import (
    ROWS,
    Passage,
    passage_of,
    read_tokens,
    real_passages,
    write_passages,
)
from mi_ortho.studies.presence.requests import Request, requests
from mi_ortho.studies.presence.streams import Stream, read_streams
from mi_ortho.studies.presence.verdicts import summarise
from mi_ortho.studies.shared.positions import sinks_setting
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.run import perform
from mi_ortho.studies.shared.subject import Subject, load_subject

REPORT = "mi_ortho.studies.presence.page:presence_report"
Streams = dict[tuple[int, str], Stream]


def presence(
    config: PresenceConfig, family: Path | None, out: Path, *, fresh: bool, at: Path | None, say: Say, track: Track
) -> Run:
    """Read the model's activations on its own code and on real code, and measure every vector of `family` in them.

    `family` is a finished run of `mi-ortho family`, None the newest one of the model under `out`.
    """
    check_settings(config)
    source = open_family(family or newest_family(out, config.model), config.match)
    say(
        f"family {source.run}: {len(source.studied)} of {len(source.vectors)} vectors keep the behaviour "
        f"({source.match})"
    )
    subject = load_subject(replace(config, model=config.model or source.config.get("model")))
    layers = check(config, source, subject)
    settings = settings_of(config) | {"family": source.run.name, "layers": layers, "source": source.config["source"]}
    prompts = [request.prompt for request in requests(subject.texts.natural, config.own, config.seed)]
    if prompts:  # no setting of this command: sinks are always left out, which statistics of earlier versions had not
        settings |= sinks_setting("exclude", subject.model, prompts, source.config.get("system"))
    facts = subject.facts(config.seed, prompts, source.config.get("system"))

    def solve(run: Run) -> None:
        passages = gather_text(run, config, source, subject, say, track)
        measure_layers(run, config, source, subject, layers, passages, say, track)
        tokens = sum(len(one.ids) for one in passages if one.kept)
        run.summary(summarise(run.records(), int(source.config["source"]), subject.title, tokens))

    return perform("presence", out, settings, facts, fresh=fresh, at=at, say=say, solve=solve, report=REPORT)


def family_model(path: Path) -> str | None:
    """The model a family run names in its settings; None is the embedded model."""
    name = open_run(path).config.get("model")
    return None if name is None else str(name)


def check(config: PresenceConfig, family: FamilyVectors, subject: Subject) -> list[int]:
    """The layers to read. Raises ValueError for anything that cannot work, before any long work."""
    width, depth = int(subject.model.cfg.d_model), int(subject.model.cfg.n_layers)
    if family.vectors.shape[1] != width:
        raise ValueError(
            f"got vectors of width {family.vectors.shape[1]} in {family.run}; expected {width}, the "
            "model's d_model; name the model they were made on with --model"
        )
    environment = read_json(family.run / "environment.json")
    digest = environment.get("model_hash") if isinstance(environment, dict) else None
    if digest and subject.digest and digest != subject.digest:
        raise ValueError(
            f"got a family of other weights (hash {str(digest)[:8]}, here {subject.digest[:8]}); expected "
            "one of this model; run `mi-ortho family` again"
        )
    source, target = int(family.config["source"]), int(family.config["target"])
    layers = sorted(set(config.layers)) if config.layers is not None else list(range(source, target + 1))
    if not layers or not all(0 <= layer < depth for layer in layers) or source not in layers:
        raise ValueError(
            f"got layers {layers}; expected layers from 0 to {depth - 1} with the family's source "
            f"{source} among them; correct --layers"
        )
    for name, least in (
        ("own", 16),
        ("library", 16),
        ("max_new_tokens", 4),
        ("text_tokens", 16),
        ("sample", 32),
        ("null_tokens", 32),
        ("sets", 1),
        ("shuffles", 20),
        ("splits", 1),
    ):
        if getattr(config, name) < least:
            raise ValueError(f"got {name}={getattr(config, name)}; expected at least {least}; raise it")
    if config.text_tokens >= int(subject.model.cfg.n_ctx):
        raise ValueError(
            f"got text_tokens={config.text_tokens}; expected less than {subject.model.cfg.n_ctx}, the "
            "model's context; lower it"
        )
    return layers


def gather_text(
    run: Run, config: PresenceConfig, family: FamilyVectors, subject: Subject, say: Say, track: Track
) -> list[Passage]:
    """Every passage: the model's answers, one stage a batch, then real text."""
    tasks = requests(subject.texts.natural, config.own, config.seed)
    say(f"{subject.title} writes: {len(tasks)} prompts")
    for first in range(0, len(tasks), ROWS):
        part = tasks[first : first + ROWS]

        def written(part: Sequence[Request] = part, first: int = first) -> list[dict[str, object]]:
            system, most = family.config.get("system"), config.max_new_tokens
            passages = write_passages(subject.model, subject.modes, part, first, system=system, max_new_tokens=most)
            return [passage.row() for passage in passages]

        def old(row: Row, first: int = first, end: int = first + len(part)) -> bool:
            return row.get("kind") == "passage" and first <= row["index"] < end

        stage(run, f"writing, from {first}", written, old=old)
        track("writing", first + len(part), len(tasks))

    def read() -> list[dict[str, object]]:
        say("reading the standard library")
        answers = [passage_of(row) for row in pick(run.records(), kind="passage") if row["index"] < len(tasks)]
        texts = real_passages(subject.model, config.library, config.text_tokens, config.seed, len(tasks))
        kept = sum(one.kept for one in (*answers, *texts))
        total = {"kind": "text", "passages": len(answers) + len(texts), "kept": kept}
        return [*(passage.row() for passage in texts), total]

    stage(
        run,
        "text",
        read,
        old=lambda row: row.get("kind") in ("passage", "text") and row.get("index", len(tasks)) >= len(tasks),
    )
    passages = {passage.index: passage for row in pick(run.records(), kind="passage") for passage in [passage_of(row)]}
    return [passages[index] for index in sorted(passages)]


def measure_layers(
    run: Run,
    config: PresenceConfig,
    family: FamilyVectors,
    subject: Subject,
    layers: Sequence[int],
    passages: Sequence[Passage],
    say: Say,
    track: Track,
) -> None:
    """Record every layer that is not complete yet, one stage each."""
    complete = {row["layer"] for row in pick(run.records(), kind="layer")}
    remaining = [layer for layer in layers if layer not in complete]
    if not remaining:
        return
    vectors = torch.cat([family.vectors, family.base[None]]).to(subject.device)
    topics = {passage.index: passage.topic for passage in passages}
    effort = Effort(config.sets, config.shuffles, config.null_tokens, config.seed)
    streams = read_streams(
        subject.model,
        passages,
        remaining,
        vectors,
        size=config.sample,
        seed=config.seed,
        system=family.config.get("system"),
        track=track,
    )

    at_one_layer = [stream for (layer, _), stream in streams.items() if layer == remaining[0]]
    stage(run, "sinks", lambda: [_sinks_row(passages, at_one_layer)])

    def measured(layer: int) -> list[dict[str, object]]:
        say(f"layer {layer}: {len(vectors)} vectors against {config.sets} sets of each kind")
        rows = layer_rows(streams, layer, vectors, family.what, topics, effort)
        if layer == int(family.config["source"]):
            rows += _at_the_source(config, family, subject, passages, streams, layer, effort)
        return [*rows, {"kind": "layer", "layer": layer}]

    for done, layer in enumerate(remaining, start=1):
        forget(run, lambda row, layer=layer: row.get("layer") == layer)
        stage(run, f"layer {layer}", lambda layer=layer: measured(layer))
        track("layers", done, len(remaining))


def _sinks_row(passages: Sequence[Passage], streams: Sequence[Stream]) -> dict[str, object]:
    """A row with the number of tokens that no statistic includes because they are attention sinks."""
    positions = sum(len(read_tokens(one)) for one in passages if one.kept)
    count = positions - sum(stream.moments.count for stream in streams)
    counts = {"choice": "exclude", "found": count, "left_out": count, "positions": positions, "factor": FACTOR}
    return {"kind": "sinks", **counts, "done": "left out of every statistic"}


def _at_the_source(
    config: PresenceConfig,
    family: FamilyVectors,
    subject: Subject,
    passages: Sequence[Passage],
    streams: Streams,
    layer: int,
    effort: Effort,
) -> list[dict[str, object]]:
    """Rows of the source layer only: nullspace probes, strongest places, coloured passages."""
    vectors, system = family.vectors.to(subject.device), family.config.get("system")
    everything = torch.cat([vectors, family.base[None].to(vectors)])
    spread = [family.keeps.nonzero().flatten().tolist()[k * (len(family.studied) - 1) // 4] for k in range(5)]
    labels = {"base": len(vectors), **{f"vector {k}": k for k in dict.fromkeys(spread)}}
    by_index = {passage.index: passage for passage in passages}
    return [
        *probe_rows(streams, layer, family.studied.to(subject.device), config.splits, config.sample, effort),
        *strongest_rows(subject.model, streams, layer, by_index, everything, system=system),
        *token_rows(subject.model, layer, passages, everything, labels, vectors[family.keeps], system=system),
    ]
