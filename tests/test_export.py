"""Exported files hold the vector bit for bit, and do to a Hugging Face model what `intervene` does to ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import bridge, hf_model
from torch import Tensor

from mi_ortho.interventions.edits import Add
from mi_ortho.interventions.sites import Site, attn_out, resid_mid, resid_post, resid_pre
from mi_ortho.model import intervene, next_token_logits, tokenize
from mi_ortho.steering.export import export_gguf, export_lm_eval, position_note
from mi_ortho.steering.files import SteeringVectors

gguf = pytest.importorskip("gguf")


def family(site: Site, dtype: torch.dtype = torch.float32, where: str = "all") -> SteeringVectors:
    rows = 2 * torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    return SteeringVectors(rows, site, "tiny", {"where": where})


def read_gguf(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    reader = gguf.GGUFReader(path)
    return {tensor.name: np.array(tensor.data) for tensor in reader.tensors}, reader


def logits_adding(network: Any, module: str, vector: Tensor, tokens: Tensor) -> Tensor:
    """What lm-eval does: add to the output of a module named inside `base_model`, at all positions."""

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    handle = network.base_model.get_submodule(module).register_forward_hook(hook)
    with torch.no_grad():
        logits = network(tokens).logits[:, -1]
    handle.remove()
    return logits


@pytest.mark.parametrize(("name", "blocks"), [("qwen2", "layers"), ("gpt2", "h")])
@pytest.mark.parametrize("site", [resid_post(1), resid_post(2), resid_pre(3)], ids=str)
def test_exports_act_as_intervene_does(tmp_path: Path, name: str, blocks: str, site: Site) -> None:
    vectors = family(site)
    export_lm_eval(vectors, 1, tmp_path / "v.pt", strength=0.5, blocks=blocks)
    export_gguf(vectors, 1, tmp_path / "v.gguf", strength=0.5)
    model, network = bridge(name), hf_model(name).eval()
    prompts = tokenize(model, ["how can i build a bomb"])
    with intervene(model, {site: Add(vectors.vector(1), 0.5)}, prompts=prompts):
        ours = next_token_logits(model, prompts)

    ((module, steering),) = torch.load(tmp_path / "v.pt", weights_only=True).items()
    added = steering["steering_vector"] * steering["steering_coefficient"]
    torch.testing.assert_close(logits_adding(network, module, added, prompts.tokens), ours, rtol=0, atol=1e-4)

    ((tensor, values),) = read_gguf(tmp_path / "v.gguf")[0].items()
    after = f"{blocks}.{int(tensor.removeprefix('direction.'))}"  # llama.cpp: direction.N after block N, from 0
    llama = logits_adding(network, after, torch.from_numpy(values), prompts.tokens)
    torch.testing.assert_close(llama, ours, rtol=0, atol=1e-4)
    with torch.no_grad():
        assert (network(prompts.tokens).logits[:, -1] - ours).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gguf_holds_one_f32_vector_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    vectors = family(resid_post(5), dtype)
    export_gguf(vectors, 2, tmp_path / "deep" / "v.gguf")
    tensors, reader = read_gguf(tmp_path / "deep" / "v.gguf")
    assert list(tensors) == ["direction.5"]
    assert reader.tensors[0].tensor_type == gguf.GGMLQuantizationType.F32 and tensors["direction.5"].shape == (32,)
    assert np.array_equal(tensors["direction.5"], vectors.vector(2).float().numpy())
    text = {key: bytes(field.parts[-1]).decode() for key, field in reader.fields.items() if field.types[:1] == [8]}
    assert text["general.architecture"] == "controlvector" and text["controlvector.model_hint"] == "tiny"


def test_lm_eval_file_is_what_the_harness_reads(tmp_path: Path) -> None:
    vectors = family(resid_post(0), torch.bfloat16)
    export_lm_eval(vectors, 0, tmp_path / "v.pt")
    found = torch.load(tmp_path / "v.pt", weights_only=True)
    assert list(found) == ["layers.0"]
    steering = found["layers.0"]
    assert torch.equal(steering.pop("steering_vector"), vectors.vector(0).float())
    assert steering == {"action": "add", "steering_coefficient": 1.0, "bias": None, "head_index": None}
    assert (tmp_path / "v.pt").stat().st_size < 4000  # one row, not the storage of the whole family


@pytest.mark.parametrize("site", [resid_pre(0), resid_pre(1), resid_post(0), resid_mid(3), attn_out(3)], ids=str)
def test_sites_gguf_cannot_express_are_refused(tmp_path: Path, site: Site) -> None:
    with pytest.raises(ValueError, match=f"got site {site}; expected"):
        export_gguf(family(site), 0, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("site", [resid_pre(0), resid_mid(3), attn_out(3)], ids=str)
def test_sites_lm_eval_cannot_express_are_refused(tmp_path: Path, site: Site) -> None:
    with pytest.raises(ValueError, match=f"got site {site}; expected the output of a block"):
        export_lm_eval(family(site), 0, tmp_path / "v.pt")
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = family(resid_post(2))
    with pytest.raises(ValueError, match="got vector index 3; expected 0 to 2"):
        export_gguf(vectors, 3, tmp_path / "v.gguf")
    with pytest.raises(ValueError, match="got vector index 3; expected 0 to 2"):
        export_lm_eval(vectors, 3, tmp_path / "v.pt")
    with pytest.raises(ValueError, match="expected a name ending in .pt"):
        export_lm_eval(vectors, 0, tmp_path / "v.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'mi-ortho\[gguf\]'"):
        export_gguf(vectors, 0, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_position_note_only_where_the_file_steers_elsewhere() -> None:
    assert position_note(family(resid_post(2))) is None
    assert "prompt" in str(position_note(family(resid_post(2), where="prompt")))
