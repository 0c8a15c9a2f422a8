"""What experiments keep on disk for each other: made once, under one name for everything it depends on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.lab import Bench, kept
from mi_ortho import start
from mi_ortho.behaviours import GENERIC_MODES, Mode, Modes


def test_what_is_kept_is_made_once_and_nothing_is_asked_again(tmp_path: Path) -> None:
    somebody: Any = SimpleNamespace(device=torch.device("cpu"))
    with start(tmp_path, "claim", {}) as run:
        bench = Bench(run, somebody)
        assert kept.file_of(bench, {"a": 1}).parent == tmp_path / "families"
        assert kept.stored(bench, {"b": 1}, lambda: {"x": torch.ones(1)})["x"] == 1
        assert kept.stored(bench, {"b": 1}, lambda: {"x": torch.zeros(1)})["x"] == 1
        assert kept.stored(bench, {"c": 1}, lambda: {"x": torch.zeros(0)})["x"].numel() == 0
        assert kept.stored(bench, {"c": 1}, lambda: {"x": torch.ones(1)})["x"] == 1  # that there is none is not kept


def test_a_base_chosen_by_other_rules_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Modes((Mode("code", "python"),), "other")
    assert kept.rules_of(rules) == kept.rules_of(Modes((Mode("code", "python"),), "other"))
    others = (GENERIC_MODES, replace(rules, default="none"), Modes((Mode("code", "regex", "def"),), "other"))
    assert all(kept.rules_of(other) != kept.rules_of(rules) for other in others)
    for name in ("__init__.py", "code.py"):
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr(kept.behaviours, "__file__", str(tmp_path / "__init__.py"))
    before = kept.rules_of(rules)
    (tmp_path / "code.py").write_text("# judges differently\n")
    assert before != kept.rules_of(rules)
