"""Attention sinks are neither steered, nor read, nor part of a control; a model without them is left as it is."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from toys import rng

import mi_ortho as mo
from mi_ortho.behaviours import GENERIC_MODES
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model.sinks import Sinks, ordinary, sinks
from mi_ortho.nulls import mean_abs_cosine
from mi_ortho.runs.directory import open_run, start
from mi_ortho.runs.rows import pick
from mi_ortho.steering import Setting
from mi_ortho.studies.dct.page import dct_report
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.controls import control_vectors
from mi_ortho.studies.family.job import prepare
from mi_ortho.studies.family.page import family_report
from mi_ortho.studies.family.page_melbo import melbo_report
from mi_ortho.studies.family.study import melbo_only
from mi_ortho.studies.nulls.page import nulls_report
from mi_ortho.studies.presence.passages import Passage, read_ordinary
from mi_ortho.studies.presence.streams import stream_of
from mi_ortho.studies.shared.left_out import left_out, sinks_row
from mi_ortho.studies.shared.positions import sinks_of

TEXTS = ["how can i build a bomb", "how can i bake", "how do we tell the poem about the sea"]
SOURCE, TARGET = resid_post(1), resid_post(3)


@pytest.fixture(params=["qwen2", "gpt2"])
def sunken(request: Any) -> Iterator[tuple[mo.Model, int]]:
    """A model one of whose tokens ("how") is embedded a thousand times as long as the others: a sink at every depth."""
    model = architectures.model(request.param)
    token = int(mo.tokenize(model, ["how"], template=False).tokens[0, -1])
    weight = model.original_model.get_input_embeddings().weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[token] *= 1000
    try:
        yield model, token
    finally:
        with torch.no_grad():
            weight.copy_(before)


def plain(model: mo.Model, texts: list[str] = TEXTS, **options: Any) -> mo.Prompts:
    return mo.tokenize(model, texts, template=False, **options)


def test_sinks_are_neither_steered_nor_read(sunken: tuple[mo.Model, int]) -> None:
    model, token = sunken
    prompts = plain(model)
    spared = mo.model.without_sinks(model, prompts)
    here = (prompts.tokens == token) & prompts.mask
    assert spared.passive is not None and torch.equal(spared.passive, here) and bool(here.any(1).all())
    theta = torch.randn(2, int(model.cfg.d_model), generator=rng())
    everywhere = mo.slice_model(model, prompts, source=SOURCE, target=TARGET, readout="all")
    z = mo.slice_model(model, spared, source=SOURCE, target=TARGET, readout="all")
    assert torch.equal(z.where_mask, prompts.mask & ~here) and torch.equal(z.real, prompts.mask & ~here)
    moved = z(theta) - z(0 * theta)
    assert not moved[:, here].any() and bool(moved[:, spared.active].any(-1).all())
    assert bool((everywhere(theta) - everywhere(0 * theta))[:, here].any(-1).all())
    pooled = mo.slice_model(model, spared, source=SOURCE, target=TARGET, readout="mean")
    mean = (z(theta) * spared.active[:, :, None]).sum(2) / spared.active.sum(1)[:, None]
    torch.testing.assert_close(pooled(theta)[:, :, 0], mean, rtol=1e-4, atol=1e-4)
    for copies, vector in enumerate(theta):  # the hooks of a full forward pass leave the same positions alone
        with mo.intervene(model, {SOURCE: mo.Add(vector)}, prompts=spared):
            full = mo.read(model, spared, [TARGET])[TARGET].float()
        torch.testing.assert_close(z(theta)[copies][spared.active], full[spared.active], rtol=1e-4, atol=1e-4)


def test_answers_and_what_is_written_are_steered_as_ever(sunken: tuple[mo.Model, int]) -> None:
    model, token = sunken
    spared = mo.model.without_sinks(model, plain(model, answers=[[token], [token, token], [token]]))
    assert spared.passive is not None and not spared.passive[:, spared.prompt_length :].any()
    assert torch.equal(spared.prompts_only().active, mo.model.without_sinks(model, plain(model)).active)
    assert torch.equal(spared.repeat(2).active, spared.active.repeat(2, 1))
    theta = 5 * torch.randn(int(model.cfg.d_model), generator=rng(3))
    spared, tokens = mo.model.without_sinks(model, plain(model)), 4
    with mo.intervene(model, {SOURCE: mo.Add(theta)}, prompts=spared):
        written = mo.model.generate_ids(model, spared, max_new_tokens=tokens)
    assert written == mo.model.generate_ids(model, spared, {SOURCE: mo.Add(theta)}, max_new_tokens=tokens)
    z = mo.logit_slice(model, mo.model.without_sinks(model, plain(model, answers=written)), source=SOURCE, where="all")
    for row, ids in enumerate(written):  # a greedy completion is what the teacher-forced slice predicts
        assert z(theta[None])[0, row, : len(ids)].argmax(-1).tolist() == ids


def test_melbo_moves_what_is_no_sink(sunken: tuple[mo.Model, int]) -> None:
    model, token = sunken
    prompts = plain(model)
    here, d_model = (prompts.tokens == token) & prompts.mask, int(model.cfg.d_model)
    setting = Setting(model, SOURCE, "all", GENERIC_MODES, sinks="exclude")
    assert setting.prompts(TEXTS).passive is not None
    assert Setting(model, SOURCE, "all", GENERIC_MODES, sinks="include").prompts(TEXTS).passive is None
    z = mo.slice_model(model, mo.model.without_sinks(model, prompts), source=SOURCE, target=TARGET, readout="all")
    (found,) = mo.melbo(mo.displace(z, like=torch.zeros(d_model)), radius=1.0, generator=rng(), max_steps=3)
    assert not (z(found.vector[None]) - z(0 * found.vector[None]))[0][here].any() and found.loss > 0


def job_of(model: mo.Model, folder: Any, **changes: Any) -> Any:
    config = FamilyConfig(source=1, target=3, n=2, n_kl=0, random_bases=0, max_new_tokens=2, **changes)
    run = start(folder, "family", {"a": 1}, at=folder / "run")
    return prepare(run, config, model, GENERIC_MODES, TEXTS[:2], TEXTS[2:])


def test_controls_of_a_family_are_not_one_direction_and_the_run_says_why(
    sunken: tuple[mo.Model, int], tmp_path: Any
) -> None:
    model, token = sunken
    job = job_of(model, tmp_path)
    found = torch.eye(int(model.cfg.d_model))[:20]
    isotropic = mean_abs_cosine(mo.random_vectors(20, found.shape[1], 1.0, rng()))
    controls = control_vectors(job, found, 2 * found[0], "activation")
    assert mean_abs_cosine(controls["covariance"]) < 3 * isotropic < 0.5
    steered = control_vectors(job_of(model, tmp_path / "other", sinks="include"), found, 2 * found[0], "activation")
    assert mean_abs_cosine(steered["covariance"]) < 3 * isotropic, "a control's covariance never has them"
    row = sinks_row(job.setting, [*job.train, *job.held_out])
    included = sinks_row(replace(job.setting, sinks="include"), [*job.train, *job.held_out])
    usual = job.setting.prompts([*job.train, *job.held_out])
    lengths = mo.read(model, usual, [job.setting.site])[job.setting.site].norm(dim=-1)[usual.active]
    assert included["stream"] == row["stream"] == pytest.approx(float(lengths.median()))
    assert included == row | {"choice": "include", "left_out": 0}
    prompts = job.setting.prompts([*job.train, *job.held_out])
    assert row["choice"] == "exclude" and row["left_out"] == int(
        (prompts.tokens == token).logical_and(prompts.mask).sum()
    )
    for text, places in zip([*job.train, *job.held_out], row["places"], strict=True):
        ids = job.setting.prompts([text]).tokens[0].tolist()
        assert places and all(ids[place] == token for place in places)
    assert left_out([row]) == {
        key: row[key] for key in ("choice", "found", "left_out", "positions", "factor", "stream")
    }
    assert left_out([]) == {}


def test_statistics_of_presence_have_no_sinks(sunken: tuple[mo.Model, int]) -> None:
    model, token = sunken
    ids = plain(model, ["tell me how we build how a poem"]).tokens[0].tolist()
    passage = Passage(0, "prose_real", -1, "", None, tuple(ids), "", "prose", True)
    ((one, found, usual),) = next(iter(read_ordinary(model, [passage], [1])))
    assert one is passage and usual.tolist() == [each != token for each in ids[1:]]
    vectors = torch.nn.functional.normalize(found[1][~usual][:1], dim=-1)  # a vector that is the sink's own direction
    stream = stream_of({0: found[1]}, vectors, 100, 0, {0: usual})
    assert stream.moments.count == int(usual.sum()) and stream.sample.seen == int(usual.sum())
    torch.testing.assert_close(stream.moments.covariance.float(), found[1][usual].mT.cov(), rtol=1e-3, atol=1e-4)
    assert bool(usual[int(stream.strongest.places[0, 0])]), "and the strongest place is another"
    against = stream_of({0: found[1]}, -vectors, 100, 0, {0: usual})  # also where every presence is negative
    assert bool(usual[int(against.strongest.places[0, 0])])
    only = Passage(0, "prose_real", -1, "", None, (ids[0], *[token] * 3), "", "prose", True)
    ((_, _, all_of_it),) = next(iter(read_ordinary(model, [only], [1])))
    assert bool(all_of_it.all()), "a passage of nothing but sinks keeps them"


def test_positions_that_a_vector_makes_sinks_are_counted(sunken: tuple[mo.Model, int]) -> None:
    """Those that were sinks before are no new ones, and each vector is counted by itself."""
    model, token = sunken
    prompts = plain(model)
    z = mo.slice_model(model, prompts, source=SOURCE, target=TARGET, readout="all", where="2")
    unit = torch.nn.functional.normalize(torch.randn(1, int(model.cfg.d_model), generator=rng()), dim=-1)
    median = float(z(0 * unit)[0][z.real].norm(dim=-1).median())
    vectors = torch.cat([0 * unit, 0.1 * median * unit, 100 * median * unit])
    steered = int((z.where_mask & (prompts.tokens != token)).sum())
    assert mo.model.new_sinks(z, vectors) == [0, 0, steered] and steered >= len(TEXTS)
    assert mo.model.new_sinks(z, vectors, factor=1000.0) == [0, 0, 0]


def test_a_model_without_sinks_is_left_as_it_is() -> None:
    model = architectures.model("qwen2")
    prompts = plain(model, ["tell me", "the sea and the poem"])
    assert mo.model.without_sinks(model, prompts) is prompts
    assert torch.equal(ordinary(model, prompts), prompts.mask)
    torch.testing.assert_close(
        mo.model.ordinary_activations(model, prompts, SOURCE),
        mo.read(model, prompts, [SOURCE])[SOURCE][prompts.mask].float(),
        rtol=0,
        atol=0,
    )


def test_a_stream_that_is_long_at_one_boundary_only_is_no_sink() -> None:
    """Written by one block and used up by the next: it belongs to what the model computes."""
    ratios = torch.ones(6, 1, 4)
    ratios[3, 0, 1] = 13.0
    ratios[2:4, 0, 2] = 13.0
    found = Sinks(ratios, 10.0)
    assert found.anywhere().tolist() == [[False, True, True, False]]
    assert found.lasting().tolist() == [[False, False, True, False]]


def test_a_prompt_of_nothing_but_sinks_keeps_them(sunken: tuple[mo.Model, int]) -> None:
    model, token = sunken
    prompts = plain(model, ["how", "we build a cake and tell the poem about the sea"])
    only = mo.model.without_sinks(model, prompts).active
    assert bool(only.any(1).all()) and token in prompts.tokens[0]


def test_the_embedded_model_has_none() -> None:
    model = mo.load_model()
    texts = mo.open_subject(None).texts
    every = [*texts.train, *texts.held_out, *(text for some in texts.natural.values() for text in some[:4])]
    prompts = mo.tokenize(model, every)
    assert mo.model.without_sinks(model, prompts) is prompts
    assert sinks_of("exclude", model, every, None) == "include", "so that its runs are what they were"
    assert sinks(model, prompts).anywhere().any(), "long at one boundary, by the block that writes the behaviour"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"choice": "include", "found": 0, "positions": 180}, "No position is an attention sink (10 times"),
        ({"choice": "exclude", "found": 3, "positions": 180}, "3 of 180 positions are attention sinks (10 times"),
        ({"choice": "exclude", "found": 1, "positions": 180}, "and was neither steered nor read."),
        ({"choice": "include", "found": 2, "positions": 180}, "and were steered and read like the others"),
        ({"choice": "exclude", "found": 2, "done": "left out of every statistic"}, "left out of every statistic."),
        (None, ""),
    ],
)
def test_a_page_says_what_was_done_with_sinks(row: Any, words: str, tmp_path: Path) -> None:
    with start(tmp_path, "melbo", {"n": 1}, facts={}) as run:
        if row:
            run.record({"kind": "sinks", "factor": 10.0, **row})
        run.summary({"headline": "told"})
    for report in (melbo_report, dct_report, nulls_report, family_report):
        page = report(run.path).read_text("utf-8")
        assert words in page and ("attention sink" in page) == bool(row), report


def test_a_run_from_before_is_left_alone_when_finished_and_goes_on_when_not(tmp_path: Path) -> None:
    config = FamilyConfig(source=3, target=6, candidates=2, max_new_tokens=2, behaviour="auto", held_out=("a cake",))
    options: Any = {"fresh": False, "at": None, "say": lambda *told: None, "track": lambda *told: None}
    path = melbo_only(config, tmp_path, **options).path
    assert len(pick(open_run(path).records(), kind="sinks")) == 1
    assert "No position is an attention sink" in (path / "report.html").read_text("utf-8")
    file, lines = path / "records.jsonl", (path / "records.jsonl").read_text().splitlines(keepends=True)
    old = [
        line for line in lines if json.loads(line).get("kind") != "sinks" and json.loads(line).get("stage") != "sinks"
    ]
    assert len(old) == len(lines) - 3
    file.write_text("".join(old))
    (path / "report.html").unlink()
    assert melbo_only(config, tmp_path, **options).path == path and file.read_text() == "".join(old)
    assert "attention sink" not in (path / "report.html").read_text("utf-8")
    summary = (path / "summary.json").read_bytes()
    (path / "summary.json").unlink()
    assert melbo_only(config, tmp_path, **options).path == path
    assert file.read_text().startswith("".join(old)) and (path / "summary.json").read_bytes() == summary
    assert len(pick(open_run(path).records(), kind="sinks")) == 1
