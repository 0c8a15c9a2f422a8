"""Numbers that are not finite are named with block and dtype; slices of a hooked model are refused."""

from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mi_ortho as mo
from mi_ortho.cli import main
from mi_ortho.interventions.sites import attn_out, mlp_out, resid_post, resid_pre
from mi_ortho.model import EMBEDDED
from mi_ortho.model.blocks import require_equal

TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea"]
D = architectures.D_MODEL
NAMED = r"NaN or infinite values, from block 2 on, in float16; expected finite numbers; load .* bfloat16 or float32"
NAMES = pytest.mark.parametrize("name", ["qwen2", "llama", "gpt2", "gemma"])


def overflowing(name: str, dtype: torch.dtype = torch.float16) -> Any:
    """A model whose third block writes more than fp16 can hold."""
    model = architectures.bridge(name)
    model.original_model.to(dtype)
    out = model.blocks[2].mlp.out.original_component.weight
    out.data.fill_(6e4)
    return model


USES = {
    "generate": lambda model, prompts: mo.generate(model, prompts, max_new_tokens=2),
    "next_token_logits": lambda model, prompts: mo.next_token_logits(model, prompts),
    "answer_logits": lambda model, prompts: mo.model.answer_logits(
        model, mo.tokenize(model, TEXTS, answers=["yes", "no", "yes i can"])
    ),
    "read": lambda model, prompts: mo.read(model, prompts, [resid_post(3)]),
    "slice": lambda model, prompts: mo.slice_model(model, prompts, source=resid_post(0), target=resid_post(3)),
    "logit_slice": lambda model, prompts: mo.logit_slice(
        model, mo.tokenize(model, TEXTS, answers=["yes", "no", "yes i can"]), source=resid_post(0)
    ),
    "difference_of_means": lambda model, prompts: mo.refusal.difference_of_means(
        model, TEXTS, TEXTS[:2], [resid_pre(1), resid_post(2)], (-1,)
    ),
}


@NAMES
@pytest.mark.parametrize("use", USES)
def test_the_first_block_that_overflows_is_named(name: str, use: str) -> None:
    model = overflowing(name)
    with pytest.raises(ValueError, match=NAMED):
        USES[use](model, mo.tokenize(model, TEXTS))


@NAMES
def test_what_lies_before_the_overflow_can_be_read(name: str) -> None:
    model = overflowing(name)
    prompts = mo.tokenize(model, TEXTS)
    assert mo.read(model, prompts, [resid_post(1)])[resid_post(1)].isfinite().all()
    z = mo.slice_model(model, prompts, source=resid_post(0), target=resid_post(1))
    assert z(torch.zeros(1, D)).isfinite().all()


def test_a_vector_that_overflows_is_not_blamed_on_a_narrow_dtype() -> None:
    model = architectures.model("qwen2")
    prompts = mo.tokenize(model, TEXTS)
    huge = {resid_post(1): mo.Add(torch.full((D,), 3e38), 2.0)}
    with pytest.raises(ValueError, match="from block 1 on, in float32.*smaller steering vectors"):
        mo.generate(model, prompts, huge, max_new_tokens=2)
    assert mo.generate(model, prompts, max_new_tokens=2)


def test_a_base_that_overflows_is_told_to_shrink_not_to_grow() -> None:
    z = mo.FunctionMap(lambda theta: theta[..., None, None, :] * 1e30 * 1e10, 4)
    with pytest.raises(ValueError, match="smaller radius"):
        mo.match(z, torch.ones(4))
    still = mo.FunctionMap(lambda theta: theta[..., None, None, :] * 0, 4)
    with pytest.raises(ValueError, match="larger radius"):
        mo.match(still, torch.ones(4))


class Pushed:
    """Moves the stream by a share of its own length."""

    rows = None

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.share * x.flip(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("site", [resid_post(1), attn_out(1), mlp_out(2)], ids=str)
@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_slice_built_under_a_hook_is_refused_in_every_dtype(name: str, site: Any, dtype: torch.dtype) -> None:
    model = architectures.bridge(name)
    model.original_model.to(dtype)
    prompts = mo.tokenize(model, TEXTS)
    with mo.intervene(model, {site: Pushed(0.5)}), pytest.raises(ValueError, match="outside of intervene"):
        mo.slice_model(model, prompts, source=resid_post(0), target=resid_post(3))
    z = mo.slice_model(model, prompts, source=resid_post(0), target=resid_post(3))
    assert z(torch.zeros(1, D)).isfinite().all()


@pytest.mark.parametrize("dtype, within", [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_what_counts_as_rounding(dtype: torch.dtype, within: float) -> None:
    require_equal(within, dtype, "blocks")
    for error in (2.5 * within, 0.4, float("nan")):
        with pytest.raises(ValueError, match="relative difference"):
            require_equal(error, dtype, "blocks")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a block that overflows in fp16, and only there."""
    folder = tmp_path_factory.mktemp("narrow")
    for file in EMBEDDED.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(EMBEDDED / "model.safetensors")
    name = next(name for name in tensors if "layers.4.mlp.down_proj" in name)
    tensors[name] = tensors[name] * (6e4 / tensors[name].abs().max())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("command", ["family", "melbo", "dct", "refusal", "geometry", "doctor"])
def test_commands_name_the_block_and_the_remedy(command: str, narrow: Path, tmp_path: Path, capsys: Any) -> None:
    settings = ["--model", str(narrow), "--dtype", "float16"]
    if command == "doctor":
        with pytest.raises(SystemExit, match="2"):
            main([command, *settings])
        said = capsys.readouterr().out
        assert "failed" in said
    else:
        sites = [] if command in ("refusal", "geometry") else ["--source", "2", "--target", "6"]
        assert main([command, *settings, *sites, "--out", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.count("mi-ortho: got ") == 1
    assert "from block 4 on, in float16" in said and "bfloat16" in said and "Traceback" not in said
