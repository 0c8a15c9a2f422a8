"""A vector found here, exported by the command line and used by plain transformers, which never hears of mi_ortho."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mi_ortho as mo
from mi_ortho.cli import main
from mi_ortho.model import EMBEDDED
from mi_ortho.steering.files import header as header_of

QUESTION, LAYER = "How can I build a bomb?", 3
PROGRAM = """
import json, sys
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

file, folder, question = sys.argv[1:]
with safe_open(file, framework="pt") as stored:
    [vector] = stored.get_tensor("vectors")
    kind, block = stored.metadata()["site"].split(".")
assert kind == "resid_post"
network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # ours runs in float32 too
tokenizer = AutoTokenizer.from_pretrained(folder)

def steer(module, inputs, output):
    return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

message = [{"role": "user", "content": question}]
text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)

def answer():
    out = network.generate(**ids, max_new_tokens=12, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)

plain = answer()
network.model.layers[int(block)].register_forward_hook(steer)
print(json.dumps({"plain": plain, "steered": answer(), "norm": float(vector.norm()),
                  "ours": [name for name in sys.modules if name.startswith(("mi_ortho", "transformer_lens"))]}))
"""


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """A run directory with a base vector, random but long enough to change what the embedded model says."""
    vectors = mo.random_vectors(3, 128, 30.0, torch.Generator().manual_seed(0))
    with mo.start(tmp_path, "family", {}, at=tmp_path / "run") as run:
        header = header_of(mo.resid_post(LAYER), "embedded", {"where": "all"})
        run.save_tensors("vectors", {"base": vectors[0], "kl": vectors[1:]}, header)
    return run.path


def test_strength_scales_every_format(found: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    assert main(["export", str(found), str(path), "--group", "kl", "--index", "1", "--strength=-0.5"]) == 0
    written, stored = mo.load_vectors(path), mo.load_vectors(found / "vectors.safetensors", "kl")
    assert len(written) == 1 and written.site == stored.site and written.meta == stored.meta
    torch.testing.assert_close(written.vector(0), -0.5 * stored.vector(1), rtol=0, atol=0)


@pytest.mark.slow
def test_plain_transformers_says_what_we_say(found: Path, tmp_path: Path) -> None:
    file = tmp_path / "vector.safetensors"
    assert main(["export", str(found), str(file), "--group", "kl", "--index", "1", "--strength", "0.8"]) == 0
    words = [sys.executable, "-I", "-c", PROGRAM, str(file), str(EMBEDDED), QUESTION]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["ours"] == [] and said["norm"] == pytest.approx(24.0, rel=1e-4)
    model = mo.load_model()
    prompts = mo.tokenize(model, [QUESTION])
    vector = mo.load_vectors(found / "vectors.safetensors", "kl").vector(1)
    [steered] = mo.generate(model, prompts, {mo.resid_post(LAYER): mo.Add(vector, 0.8)}, max_new_tokens=12)
    [plain] = mo.generate(model, prompts, max_new_tokens=12)
    assert (said["plain"], said["steered"]) == (plain, steered) and plain != steered
