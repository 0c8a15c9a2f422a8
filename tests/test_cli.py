"""The command line: instant help, one-line errors with exit code 2, strict settings files."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_ortho.cli import main
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import EMBEDDED
from mi_ortho.steering.files import SteeringVectors, save_vectors


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Folders a newcomer could pass by mistake."""
    root = tmp_path_factory.mktemp("broken")
    (root / "empty").mkdir()
    folder = root / "nan"
    folder.mkdir()
    for file in EMBEDDED.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(EMBEDDED / "model.safetensors")
    name = next(name for name in tensors if "down_proj" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return root


def error_of(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("mi-ortho:")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


BAD = {
    "unknown folder": (["--model", "./no/such/folder"], ["no/such/folder", "expected"]),
    "site beyond the last layer": (["--target", "99"], ["99", "expected layers from 0 to"]),
    "source not before target": (["--source", "5", "--target", "3"], ["source 5", "source < target"]),
    "radius zero": (["--radius", "0"], ["radius 0", "positive"]),
    "negative radius": (["--radius=-3"], ["radius -3", "positive"]),
    "n above d_model": (["--n", "100000"], ["n=100000", "d_model is"]),
    "n-kl above d_model": (["--n-kl", "100000"], ["n_kl=100000", "d_model is"]),
    "empty prompt": (["--prompts", ""], ["empty text", "expected"]),
    "prompt beyond the context": (["--prompts", "bomb " * 5000], ["tokens", "context"]),
    "unknown device": (["--device", "abacus"], ["abacus", "--device"]),
    "unknown dtype": (["--dtype", "int4"], ["int4", "float32"]),
    "unknown solver": (["--solver", "magic"], ["magic", "projected"]),
    "unknown option": (["--radios", "3"], ["--radios"]),
    "text for a number": (["--source", "early"], ["early"]),
    "missing settings file": (["--config", "nowhere.toml"], ["nowhere.toml", "TOML"]),
    "unknown behaviour": (["--behaviour", "juggling", "--candidates", "2"], ["juggling", "expected"]),
    "no vectors": (["--n", "0", "--n-kl", "0"], ["no vectors"]),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_line_with_the_value_and_a_remedy(name, capsys, tmp_path):
    arguments, expected = BAD[name]
    message = error_of(capsys, "family", "--out", str(tmp_path), *arguments)
    for text in expected:
        assert text in message, message


def test_nan_weights_and_empty_folders(capsys, tmp_path, broken):
    assert "NaN" in error_of(capsys, "family", "--out", str(tmp_path), "--model", str(broken / "nan"))
    assert "config.json" in error_of(capsys, "family", "--out", str(tmp_path), "--model", str(broken / "empty"))


def test_own_base_of_the_wrong_width(capsys, tmp_path):
    save_vectors(SteeringVectors(torch.ones(1, 7), resid_post(1), "other", {}), tmp_path / "base.safetensors")
    message = error_of(capsys, "family", "--out", str(tmp_path), "--base", str(tmp_path / "base.safetensors"))
    assert "width 7" in message


def test_a_run_directory_of_another_configuration(capsys, tmp_path):
    place = tmp_path / "mine"
    place.mkdir()
    (place / "config.json").write_text('{"radius": 1.0}')
    message = error_of(capsys, "family", "--at", str(place))
    assert "another configuration" in message and "choose another --at" in message


def test_melbo_alone_is_not_held_to_the_size_of_a_family(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"radius": 1.0}')
    too_many = ("--n-kl", "500", "--at", str(tmp_path))
    assert "n_kl=500" in error_of(capsys, "family", *too_many)
    assert "another configuration" in error_of(capsys, "melbo", *too_many)  # what is checked after the numbers


def test_an_exported_vector_says_where_it_belongs(capsys, tmp_path):
    save_vectors(SteeringVectors(torch.ones(1, 7), resid_post(1), "m", {"where": "prompt"}), tmp_path / "v.safetensors")
    for ending in ("safetensors", "gguf"):
        target = str(tmp_path / f"one.{ending}")
        assert main(["export", str(tmp_path / "v.safetensors"), target, "--group", "vectors"]) == 0
        assert '"prompt"' in capsys.readouterr().err


def test_a_misspelt_setting_in_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "mine.toml").write_text("radios = 3.0\n")
    assert "radios" in error_of(capsys, "family", "--out", str(tmp_path), "--config", str(tmp_path / "mine.toml"))


def test_flags_override_files(capsys, tmp_path):
    (tmp_path / "mine.toml").write_text("source = 5\ntarget = 3\n")
    settings = ["--config", str(tmp_path / "mine.toml"), "--out", str(tmp_path)]
    assert "source 5, target 3" in error_of(capsys, "family", *settings)
    assert "source 4, target 3" in error_of(capsys, "family", *settings, "--source", "4")


@pytest.mark.parametrize("name", ["report", "show"])
def test_commands_on_something_that_is_no_run(name, capsys, tmp_path):
    assert "config.json" in error_of(capsys, name, str(tmp_path))


def test_export_refuses_unknown_endings(capsys, tmp_path):
    save_vectors(SteeringVectors(torch.ones(1, 7), resid_post(1), "m", {}), tmp_path / "v.safetensors")
    source = str(tmp_path / "v.safetensors")
    assert ".onnx" in error_of(capsys, "export", source, str(tmp_path / "v.onnx"), "--group", "vectors")
    assert main(["export", source, str(tmp_path / "one.safetensors"), "--group", "vectors"]) == 0


def test_help_does_not_wait_for_torch():
    code = "import sys; from mi_ortho.cli import main; main(['family', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--norm-cap" in done.stdout


NOISY = """
import sys
from mi_ortho.cli import main
from mi_ortho.studies.shared.command import app

@app.command
def noisy():
    import logging, warnings
    warnings.simplefilter("always")  # as libraries do when they are imported
    warnings.warn("a change is coming", FutureWarning)
    warnings.warn("think of it")
    logging.getLogger("somebody.else").warning("by the way")
    from tqdm import tqdm
    list(tqdm(range(3), desc="Loading weights"))
    print("ours")

sys.exit(main(["noisy"]))
"""


def test_nothing_of_the_libraries_below_is_seen_in_the_output_of_a_command():
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "")


def test_whoever_asks_for_warnings_gets_them():
    done = subprocess.run([sys.executable, "-W", "always", "-c", NOISY], capture_output=True, text=True)
    assert done.stdout == "ours\n"
    assert "a change is coming" in done.stderr and "think of it" in done.stderr
