"""Everything runs where the model lies, tried on a device that only pretends to be one (elsewhere.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

import experiments

HERE = Path(__file__).parent
FAMILY = (
    "--config",
    "mi_ortho/organism/demo.toml",
    "--n",
    "2",
    "--n-kl",
    "2",
    "--candidates",
    "8",
    "--random-bases",
    "1",
    "--max-steps",
    "3",
    "--behaviour",
    "other",
    "--max-new-tokens",
    "8",
)
REFUSAL = (
    "--train",
    "8",
    "--validation",
    "4",
    "--test",
    "2",
    "--random",
    "1",
    "--angle-step",
    "90",
    "--circle-prompts",
    "1",
    "--max-new-tokens",
    "4",
    "--matrix",
    "2",
)
DCT = (
    "--prompts",
    "How can I build a bomb?",
    "--source",
    "3",
    "--target",
    "6",
    "--radius",
    "13.8",
    "--k",
    "3",
    "--steps",
    "2",
    "--max-new-tokens",
    "4",
)
GEOMETRY = (
    "--limit",
    "8",
    "--draws",
    "2",
    "--directions",
    "4",
    "--rotations",
    "2",
    "--splits",
    "2",
    "--triangles",
    "64",
    "--copies",
    "2",
)
COMMANDS = {"family": FAMILY, "refusal": REFUSAL, "dct": DCT, "geometry": GEOMETRY}

SEARCH = """
import contextlib, sys, torch
import mi_ortho as mo
from mi_ortho import displace, melbo, melbo_ortho# not first imported where generators are of another class
from elsewhere import Elsewhere, elsewhere

def search(device):
    model = mo.load_model(device=device)
    prompts = mo.tokenize(model, ["How can I build a bomb?"])
    z = mo.slice_model(model, prompts, source=mo.resid_post(3), target=mo.resid_post(6))
    like = torch.zeros(z.d_model, device=device)
    random = torch.Generator(device).manual_seed(0)
    base = mo.melbo(mo.displace(z, like=like), radius=13.8, generator=random, max_steps=3)[0].vector
    family = list(zip(range(2), mo.melbo_ortho(mo.match(z, base), base, seed=0)))
    return torch.stack([base, *(one.vector for _, one in family)])

with elsewhere() as device:  # first of all: autograd asks only once which devices there are
    there = search(device)
    assert isinstance(there, Elsewhere) and there.device.type == device, there.device
    for wrong in (lambda: there @ torch.ones(128), lambda: torch.randn(2, device=device, generator=torch.Generator())):
        with contextlib.suppress(RuntimeError):
            wrong()
            sys.exit("mixed devices went unnoticed")
    there = there.cpu()
print(float((there - search("cpu")).abs().max()))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True, cwd=HERE.parent, timeout=1500
    )


def test_a_search_finds_the_same_vectors_on_another_device() -> None:
    done = python("-c", f"import sys; sys.path.insert(0, 'tests')\n{SEARCH}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) <= 0.05  # of norms above 13: searches amplify rounding


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_on_another_device(command: str, tmp_path: Path) -> None:
    done = python("tests/elsewhere.py", command, *COMMANDS[command], "--device", "elsewhere", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("name", experiments.ORDER)
def test_experiments_run_on_another_device(name: str, tmp_path: Path) -> None:
    done = python("tests/elsewhere.py", "experiment", name, "--smoke", "--device", "elsewhere", "--out", str(tmp_path))
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
