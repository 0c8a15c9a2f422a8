"""The demo keeps its promises: a large family, its published counterpart, an end, and controls far below."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_finds_a_family_and_its_end(tmp_path):
    command = [sys.executable, "-m", "mi_ortho.cli", "family", "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    kl, activation = summary["counts"]["kl"], summary["counts"]["activation"]
    assert kl["found"] >= 64 and activation["found"] >= 32
    assert kl["end"] is not None and kl["end"] >= 64
    assert kl["kept"] - kl["controls"]["isotropic"] > 0.5 * kl["found"]
    assert max(summary["max_abs_cosine"].values()) < 1e-6
