"""Steering vectors for other programs: llama.cpp (GGUF control vector) and lm-evaluation-harness (`steered` model).

Both add one vector per layer to the residual stream leaving a block, **at all positions**, prompt and answer alike. A
vector found by steering the prompt only can act differently there; `position_note` says so. `save_vectors` writes
files of our own format.
"""

import io
import tempfile
from pathlib import Path

import torch

from mi_ortho.interventions.sites import Site
from mi_ortho.runs.files import write_file
from mi_ortho.steering.files import SteeringVectors


def export_gguf(family: SteeringVectors, index: int, path: Path, *, strength: float = 1.0) -> None:
    """Write `strength` times vector `index` as a control vector for `llama-cli --control-vector FILE`.

    The file holds one F32 tensor of shape d_model named `direction.N`. llama.cpp adds it to the output of block N,
    counted from 0, and has no place for N = 0 (llama.cpp: `common_control_vector_load_one` in common/common.cpp stores
    direction.N at offset N - 1 and refuses N < 1; `llama_adapter_cvec::apply` in src/llama-adapter.cpp reads block
    il from offset il - 1; the graphs call `build_cvec(cur, il)` after the last residual addition of block il). So
    `resid_post.l`, and `resid_pre.(l + 1)`, which is the same activation, become `direction.l`.

    Raises:
        ValueError: the site is inside a block or before the output of block 1, `index` is out of range, or the
            package `gguf` is missing.
    """
    block = _block(family.site)
    if block < 1:
        raise ValueError(
            f"got site {family.site}; expected resid_post.1 or later, as GGUF has no direction.0; export to lm-eval"
        )
    try:
        import gguf
    except ImportError as cause:
        raise ValueError("got no package gguf; expected it for this export; pip install 'mi-ortho[gguf]'") from cause
    vector = (strength * family.vector(index).float()).cpu().contiguous().numpy()
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(draft, "controlvector")
        writer.add_string("controlvector.model_hint", family.model)
        writer.add_uint32("controlvector.layer_count", 1)
        writer.add_tensor(f"direction.{block}", vector)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_file(path, draft.read_bytes())


def export_lm_eval(
    family: SteeringVectors, index: int, path: Path, *, strength: float = 1.0, blocks: str = "layers"
) -> None:
    """Write `strength` times vector `index` for `lm_eval --model steered --model_args pretrained=...,steer_path=FILE`.

    The harness (lm_eval/models/hf_steered.py) takes raw vectors only as a `.pt` file, a dict from module name to
    action, coefficient and tensor, which it reads with `weights_only=True`; its CSV form can only name features of
    sparse autoencoders. We write that file and never read one. The module name is that of a block inside the Hugging
    Face `base_model`: `blocks` is "layers" for Llama, Qwen, Gemma, Mistral and GPT-NeoX, "h" for GPT-2, Falcon, Bloom.

    Raises:
        ValueError: the site is inside a block or before the first one, the name does not end in .pt, or `index` is
            out of range.
    """
    if path.suffix != ".pt":
        raise ValueError(f"got {path}; expected a name ending in .pt, the only one the harness reads; rename it")
    steering = {
        "action": "add",
        "steering_vector": (strength * family.vector(index).float()).cpu(),
        "steering_coefficient": 1.0,
        "bias": None,
        "head_index": None,
    }
    content = io.BytesIO()
    torch.save({f"{blocks}.{_block(family.site)}": steering}, content)
    write_file(path, content.getvalue())


def position_note(family: SteeringVectors) -> str | None:
    """One line to show with an export when the family was found at other positions than all; None when it fits.

    >>> position_note(SteeringVectors(torch.eye(1, 4), Site(1, "resid_post"), "organism", {"where": "prompt"}))
    'found steering the positions "prompt"; the exported file steers all positions, so check its effect there'
    """
    where = family.meta.get("where", "all")
    if where == "all":
        return None
    return f'found steering the positions "{where}"; the exported file steers all positions, so check its effect there'


def _block(site: Site) -> int:
    """The block whose output is the activation at `site`."""
    if site.boundary is None or site.boundary == 0:
        raise ValueError(
            f"got site {site}; expected the output of a block, such as resid_post.1; choose another export"
        )
    return site.boundary - 1
