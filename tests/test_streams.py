"""Reading trajectories and write matrices from models, and the control networks."""

from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, N_LAYERS, hf_model, model, tiny_tokenizer

import mi_ortho as mo
from mi_ortho.model import EMBEDDED, load_model, load_shuffled, load_untrained
from mi_ortho.model.load import weights
from mi_ortho.model.trajectories import stream_sites, token_trajectories, trajectories, write_matrices

TEXTS = ["bake a cake", "tell me about the stars of the sea", "yes", "how can i build a bomb"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trajectories_are_what_each_prompt_gives_alone(name: str) -> None:
    found = trajectories(model(name), TEXTS, batch=3)
    assert found.points.shape[:2] == (4, len(found.sites)) and len(set(found.sites)) == len(found.sites)
    for row, text in zip(found.points, TEXTS):
        alone = mo.read(model(name), mo.tokenize(model(name), [text]), found.sites)
        for point, site in zip(row, found.sites):
            assert torch.allclose(point, alone[site][0, -1], atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_streams_lie_in_order_of_depth(name: str) -> None:
    parallel = name == "gpt_neox"  # attention and MLP side by side: no point between them
    found = trajectories(model(name), TEXTS[:2])
    assert len(found.sites) == (N_LAYERS + 1 if parallel else 2 * N_LAYERS + 1)
    pre, post = found.kind("resid_pre"), found.kind("resid_post")
    assert torch.equal(pre[:, 1:], post[:, :-1]) and pre.shape[1] == post.shape[1] == N_LAYERS
    if parallel:
        with pytest.raises(ValueError, match="resid_mid"):
            found.kind("resid_mid")
    else:
        written = mo.read(model(name), mo.tokenize(model(name), TEXTS[:1]), [mo.attn_out(2), mo.mlp_out(2)])
        mid = found.kind("resid_mid")
        assert torch.allclose((mid - pre)[0, 2], written[mo.attn_out(2)][0, -1], atol=1e-5)
        assert torch.allclose((post - mid)[0, 2], written[mo.mlp_out(2)][0, -1], atol=1e-5)


def test_all_tokens_leave_the_padding_out() -> None:
    parts = list(token_trajectories(model("qwen2"), TEXTS, batch=2))
    assert sum(map(len, parts)) == sum(int(mo.tokenize(model("qwen2"), [text]).mask.sum()) for text in TEXTS)
    last = mo.read(model("qwen2"), mo.tokenize(model("qwen2"), TEXTS[3:]), [mo.resid_post(3)])[mo.resid_post(3)]
    assert torch.allclose(parts[-1][-1, -1], last[0, -1], atol=1e-5)


WRITERS = {  # names of the output projections in transformers, and whether they are stored as outputs by inputs
    "qwen2": ("self_attn.o_proj", "mlp.down_proj", True),
    "llama": ("self_attn.o_proj", "mlp.down_proj", True),
    "gpt2": ("attn.c_proj", "mlp.c_proj", False),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h", True),
    "gemma": ("self_attn.o_proj", "mlp.down_proj", True),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_write_matrices_are_the_output_projections(name: str) -> None:
    attention, mlp, transposed = WRITERS[name]
    original = dict(hf_model(name).named_parameters())
    found = write_matrices(model(name))
    assert [str(site) for site, _ in found[:3]] == ["attn_out.0", "mlp_out.0", "attn_out.1"]
    for site, matrix in found:
        end = f".{site.layer}.{attention if site.kind == 'attn_out' else mlp}.weight"
        wanted = next(weight for key, weight in original.items() if key.endswith(end))
        assert torch.equal(matrix, wanted.T if transposed else wanted)


def test_no_prompts_and_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        trajectories(model("qwen2"), [])
    with pytest.raises(ValueError, match="larger batch"):
        trajectories(model("qwen2"), TEXTS, batch=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    hf_model("qwen2").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_untrained_networks_differ_by_seed_and_leave_the_global_generator_alone(folder: Path) -> None:
    before = torch.random.get_rng_state()
    a, b, again = (torch.cat([w.flatten() for w in weights(load_untrained(folder, seed=s))]) for s in (0, 1, 0))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(a, again) and not torch.equal(a, b)
    trained = torch.cat([w.flatten() for w in weights(load_model(folder))])
    # transformers starts at a standard deviation of 0.02, the "trained" ones were drawn at 0.15
    assert trained.shape == a.shape and float(a.abs().median()) < 0.5 * float(trained.abs().median())
    assert not any(w.requires_grad for w in weights(load_untrained(folder, seed=0)))


def test_shuffled_networks_keep_every_entry_and_no_place(folder: Path) -> None:
    for weight, mixed in zip(weights(load_model(folder)), weights(load_shuffled(folder, seed=0))):
        assert torch.equal(weight.flatten().sort().values, mixed.flatten().sort().values)
        assert (weight.ndim > 1) == (not torch.equal(weight, mixed))


def test_the_embedded_model_is_untouched_by_its_controls() -> None:
    assert (EMBEDDED / "model.safetensors").is_file()
    sites = stream_sites(model("qwen2"))
    assert [str(site) for site in sites[:3]] == ["resid_pre.0", "resid_mid.0", "resid_pre.1"]
