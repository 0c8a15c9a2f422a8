"""`mi-ortho melbo` as a program: what it prints, and where."""

import json
import subprocess
import sys


def test_melbo_writes_lines_of_its_own_only(tmp_path):
    tiny = ["--n", "1", "--candidates", "2", "--max-steps", "2", "--max-new-tokens", "4", "--held-out", "Who are you?"]
    done = subprocess.run(
        [sys.executable, "-m", "mi_ortho.cli", "melbo", *tiny, "--behaviour", "auto", "--out", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["headline"]
    starts = ("loading ", "run ", "unsteered: ", "MELBO: ", "report: ", "details: ")
    assert all(line.startswith(starts) for line in done.stderr.splitlines()), done.stderr
