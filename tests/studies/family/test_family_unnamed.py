"""A whole run of `family` on a base whose behaviour no rule names: judged by the base's own answers, and said so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import tiny_subject

import mi_ortho as mo
from mi_ortho.behaviours import AS_THE_BASE, CHAT_MODES
from mi_ortho.runs.directory import summary_of
from mi_ortho.runs.rows import pick
from mi_ortho.studies.family import study
from mi_ortho.studies.family.config import FamilyConfig

CONFIG = FamilyConfig(
    prompts=("river stone",),
    held_out=("cloud river",),
    source=0,
    target=2,
    n=0,
    n_kl=2,
    candidates=1,
    random_bases=0,
    shrink=False,
    max_steps=2,
    answer_tokens=4,
    max_new_tokens=4,
)


@pytest.mark.parametrize("chat", [False, True])
def test_a_run_of_a_base_without_a_name(chat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`chat`: with the rules for chat models, whose threshold is lowered: random weights find everything improbable."""
    modes = replace(CHAT_MODES, least=-1e3) if chat else tiny_subject().modes
    subject = replace(tiny_subject(), modes=modes)
    monkeypatch.setattr(study, "load_subject", lambda *args, **options: subject)
    vector = (torch.randn(5, 32, generator=torch.Generator().manual_seed(3)) * 3)[2:3]
    mo.save_vectors(mo.SteeringVectors(vector, mo.resid_post(0), "tiny"), tmp_path / "base.safetensors")
    config = replace(CONFIG, base=str(tmp_path / "base.safetensors"))
    said: list[str] = []
    run = study.family(
        config, tmp_path / "runs", fresh=False, at=None, say=said.append, track=lambda stage, done, total: None
    )
    [base] = pick(run.records(), kind="base")
    assert base["mode"] == AS_THE_BASE and base["keeps"] and base["train_share"] == 1.0
    assert any("compared with the base's own" in line for line in said)
    headline = str(summary_of(run)["headline"])
    assert "no rule names this behaviour" in headline and "other instead of other" not in headline
    report = (run.path / "report.html").read_text("utf-8")
    assert "no rule names this behaviour" in report
