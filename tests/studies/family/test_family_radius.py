"""The norm by a line search: where it stops, what it records, that it goes on where it was interrupted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch

from mi_ortho.behaviours import Mode, Modes
from mi_ortho.elicitation import melbo
from mi_ortho.elicitation.objectives import LinearMap, displace
from mi_ortho.interventions.subspace import max_abs_cosine
from mi_ortho.runs.directory import start
from mi_ortho.steering.completions import Completion
from mi_ortho.studies.family import radius, stages, study
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.family.job import Job, check_alone, prepare
from mi_ortho.studies.family.page_radius import radius_section
from mi_ortho.studies.family.radius import GROWTH, HALVINGS, TIMES

STREAM = 2.0  # its median norm, as recorded
MODES = Modes((Mode("code", "python"), Mode("poem", "poem")), least=-3.0)


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A job on a tiny model that answers to candidates by their norm alone, and to random vectors as without any."""

    def make(name: str, answer: Any, **settings: Any) -> Job:
        def complete(_: Any, texts: list[str], vectors: torch.Tensor) -> list[list[Completion]]:
            random = len(vectors) == radius.RANDOM
            modes = ["other" if random else answer(float(vector.norm()) / STREAM) for vector in vectors]
            return [[Completion((1,), f"a {mode}", mode, -1.0)] * len(texts) for mode in modes]

        for room in (radius, stages):
            monkeypatch.setattr(room, "complete", complete)
        config = FamilyConfig(source=0, target=2, n=1, n_kl=1, candidates=3, radius="auto")
        run = start(tmp_path, name, {"name": name})
        run.record({"kind": "sinks", "stream": STREAM})
        run.record({"kind": "unsteered", "mode": "other", "text": "a text", "prompt_text": "river stone"})
        model = architectures.model("qwen2")
        return prepare(run, replace(config, **settings), model, MODES, ["river stone"], (), say=lambda line: None)

    return make


def content(job: Job) -> list[str]:
    return [json.dumps(row, sort_keys=True) for row in job.run.records()]


def test_the_smallest_norm_is_found_by_halving_and_one_beyond_is_recorded(search: Any) -> None:
    job = search("found", lambda times: "incoherent" if times > 0.3 else "code" if times > 0.15 else "other")
    vectors = stages.candidates(job)
    rows = job.rows(kind="radius_search", control=None, index=0)
    assert [row["way"] for row in rows] == ["up"] * 5 + ["beyond"] + ["down"] * HALVINGS
    assert [row["times"] for row in rows[:5]] == pytest.approx(TIMES[:5])
    assert rows[5]["times"] == pytest.approx(TIMES[4] * GROWTH) and rows[5]["mode"] == "incoherent"
    [taken] = job.rows(kind="radius")
    assert 0.15 < taken["times"] < 0.15 * GROWTH ** (0.5**HALVINGS) * 1.001
    assert taken["radius"] == pytest.approx(taken["times"] * STREAM)
    assert vectors.norm(dim=-1).tolist() == pytest.approx([taken["radius"]] * 3)
    assert max_abs_cosine(vectors) < 1e-6
    [found] = job.rows(kind="melbo_search")
    of_norm = job.rows(kind="radius_search", control=None, step=taken["step"])
    assert found["objectives"] == [row["displacement"] for row in of_norm]
    assert job.rows(kind="melbo")[0]["mode"] == "code" and not any(r["new"] for r in job.rows(control="isotropic"))


def test_the_first_norm_is_taken_where_it_already_works(search: Any) -> None:
    job = search("first", lambda times: "poem")
    stages.candidates(job)
    assert job.rows(kind="radius")[0]["times"] == TIMES[0]
    assert {row["way"] for row in job.rows(kind="radius_search")} == {"up", "beyond"}


def test_only_the_wanted_behaviour_ends_the_search(search: Any) -> None:
    def answer(times: float) -> str:
        return "other" if times < 0.1 else "poem" if times < 0.6 else "code"

    first = {}
    for wanted in ("auto", "poem", "code"):
        stages.candidates(job := search(wanted, answer, behaviour=wanted))
        first[wanted] = job.rows(kind="radius")[0]["times"]
    assert first["auto"] == first["poem"] < 0.15 and first["code"] > 0.5


def test_what_no_branch_shows_is_looked_for_anew_where_answers_can_be_read(search: Any) -> None:
    def answer(times: float) -> str:
        window = "code" if 0.09 < times < 0.1 else "poem"
        return "other" if times < 0.07 else window if times < 0.19 else "incoherent"

    vectors = stages.candidates(job := search("anew", answer, behaviour="code"))
    rows = job.rows(kind="radius_search", control=None, index=0)
    assert [row["way"] for row in rows] == ["up"] * 5 + ["anew"] * 2  # the fifth cannot be read any more
    [taken] = job.rows(kind="radius")
    assert taken["times"] == pytest.approx(TIMES[2] * GROWTH**0.5)
    alone = search("alone", answer, radius=taken["radius"])
    assert torch.equal(stages.candidates(alone), vectors)  # what that radius gives without a search
    with pytest.raises(ValueError, match="no MELBO vector"):
        stages.candidates(search("never", lambda times: "incoherent" if times > 0.2 else "poem", behaviour="code"))


def test_an_interrupted_search_ends_as_if_nothing_had_happened(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(times: float) -> str:
        return "code" if times > 0.08 else "other"

    whole = search("whole", answer)
    expected = stages.candidates(whole)
    steps = len({row["step"] for row in whole.rows(kind="radius_search")})
    for last in (1, 3, steps - 1):  # on the way up, beyond, while halving
        job, left = search(f"cut {last}", answer), iter(range(last))

        def cut(*args: Any, left: Any = left, **options: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return melbo(*args, **options)

        monkeypatch.setattr(radius, "melbo", cut)
        with pytest.raises(KeyboardInterrupt):
            stages.candidates(job)
        monkeypatch.setattr(radius, "melbo", melbo)
        assert torch.equal(stages.candidates(job), expected)
        assert content(job) == content(whole)


def test_a_search_that_finds_nothing_says_what_it_saw(search: Any) -> None:
    with pytest.raises(ValueError, match="no MELBO vector with behaviour 'code'") as error:
        stages.candidates(search("nothing", lambda times: "poem" if times > 1 else "other", behaviour="code"))
    text = str(error.value)
    assert "\n" not in text and "unsteered: other" in text and "0.06: 3 other" in text and "4.12: 3 poem" in text
    assert "--radius a number" in text


def test_the_page_shows_every_norm_and_marks_the_one_taken(search: Any) -> None:
    job = search("page", lambda times: "incoherent" if times > 0.3 else "code" if times > 0.15 else "other")
    assert radius_section(job.run.records(), {}) is None
    stages.candidates(job)
    section = radius_section(job.run.records(), {"behaviour": "code"})
    assert section is not None
    text = str(section.body)
    assert text.count('class="panel"') == 3 and "a <mark>code</mark>" in text and "a <mark>incoherent</mark>" in text
    assert "between failure and success" in text and "3 code" in text


@pytest.mark.parametrize("given", [0.0, -1.0, float("inf"), float("nan")])
def test_a_norm_that_is_none_is_refused(given: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number, auto or lambda; correct --radius"):
        check_alone(FamilyConfig(radius=given))


def test_lambda_is_the_word_for_what_a_run_without_a_radius_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "perform", lambda name, out, settings, facts, **options: start(out, name, settings))
    runs: list[Any] = []
    words: tuple[Any, ...] = (None, "lambda", "auto", 3.0)
    for given in words:
        run = study.melbo_only(
            FamilyConfig(source=3, target=6, radius=given),
            tmp_path,
            fresh=False,
            at=None,
            say=lambda line: None,
            track=lambda stage, done, total: None,
        )
        runs.append(run)
        run.close()
    assert [run.config["radius"] for run in runs] == [None, None, "auto", 3.0]


def test_melbo_goes_on_from_given_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    z = LinearMap(torch.diag(torch.arange(8.0, 0.0, -1.0)), torch.zeros(8))
    tops = torch.eye(8)[:2] * 0.3
    found = melbo(displace(z), radius=2.0, n=3, generator=generator, max_steps=1, starts=tops)
    assert torch.allclose(torch.stack([one.vector for one in found[:2]]).abs(), 2 * torch.eye(8)[:2], atol=1e-5)
    assert max_abs_cosine(torch.stack([one.vector for one in found])) < 1e-6
