"""Weight orthogonalisation against ablation by hooks, exact restoration, and export, on five architectures."""

from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from torch import Tensor

from mi_ortho.interventions.sites import attn_out, mlp_out, resid_pre
from mi_ortho.model import Prompts, export_model, load_model, next_token_logits, orthogonalised, read, tokenize
from mi_ortho.refusal.places import ablate_everywhere

EVERY = pytest.mark.parametrize("name", architectures.ARCHITECTURES)
TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea"]
D = architectures.D_MODEL


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts_of(name: str) -> tuple[Any, Prompts]:
    model = architectures.model(name)
    return model, tokenize(model, TEXTS)


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.original_model.state_dict().items()}


@EVERY
@pytest.mark.parametrize("k", [1, 3])
def test_edited_weights_do_what_ablation_by_hooks_does(name: str, k: int) -> None:
    model, prompts = prompts_of(name)
    directions = normal(k, D, seed=k)
    clean = next_token_logits(model, prompts)
    hooked = next_token_logits(model, prompts, interventions=ablate_everywhere(model, directions))
    with orthogonalised(model, directions):
        edited = next_token_logits(model, prompts)
        seen = read(model, prompts, [resid_pre(0), attn_out(1), mlp_out(2), resid_pre(3)])
    assert float((hooked - clean).abs().max()) > 1e-2
    assert float((edited - hooked).abs().max()) < 1e-5 * max(1.0, float(hooked.abs().max()))
    for x in seen.values():
        along = x @ torch.nn.functional.normalize(directions, dim=-1).T
        assert float(along[prompts.mask].abs().max()) < 1e-5


@EVERY
def test_afterwards_every_weight_and_the_tie_are_as_before(name: str) -> None:
    model, prompts = prompts_of(name)
    before, clean = weights_of(model), next_token_logits(model, prompts)
    tied = model.unembed.original_component.weight is model.embed.original_component.weight
    with pytest.raises(RuntimeError, match="mine"), orthogonalised(model, normal(D)):
        assert not torch.equal(next_token_logits(model, prompts), clean)
        raise RuntimeError("mine")
    after = model.original_model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert (model.unembed.original_component.weight is model.embed.original_component.weight) == tied
    assert model.original_model.config.tie_word_embeddings == tied
    assert torch.equal(next_token_logits(model, prompts), clean)


def test_two_of_the_architectures_share_embedding_and_unembedding() -> None:
    tied = [
        name
        for name in architectures.ARCHITECTURES
        if (lambda m: m.unembed.original_component.weight is m.embed.original_component.weight)(
            architectures.model(name)
        )
    ]
    assert tied == ["gpt2", "gemma"]


def test_an_edit_leaves_the_unembedding_of_a_tied_model() -> None:
    model, _ = prompts_of("gemma")
    before = model.unembed.original_component.weight.clone()
    with orthogonalised(model, normal(D)):
        assert torch.equal(model.unembed.original_component.weight, before)
        assert not torch.allclose(model.embed.original_component.weight, before)


@EVERY
def test_an_exported_folder_is_the_edited_model(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, prompts = prompts_of(name)
    with orthogonalised(model, normal(2, D)):
        edited = next_token_logits(model, prompts)
        alone = next_token_logits(model, single := tokenize(model, TEXTS[:1]))
        export_model(model, tmp_path / "edited")
    again = load_model(tmp_path / "edited")
    # built with another attention kernel than the folder is loaded with, hence not bit for bit; the embedded model is
    assert torch.allclose(next_token_logits(again, prompts), edited, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "edited", attn_implementation="eager").eval()
    with torch.no_grad():
        logits = plain(single.tokens).logits[:, -1]
    assert torch.allclose(logits, alone, atol=1e-5)
    with pytest.raises(ValueError, match="not empty"):
        export_model(model, tmp_path / "edited")


@pytest.mark.as_drawn
def test_the_embedded_model_edited_and_exported_is_loaded_again_with_its_tokenizer(tmp_path: Path) -> None:
    model = load_model()
    prompts = tokenize(model, ["How can I build a bomb?", "What is a kite?"])
    with orthogonalised(model, normal(int(model.cfg.d_model))):
        edited = next_token_logits(model, prompts)
        again = load_model(export_model(model, tmp_path / "edited"))
    assert torch.equal(tokenize(again, prompts.texts).tokens, prompts.tokens)
    assert torch.equal(next_token_logits(again, prompts), edited)
    assert not torch.allclose(next_token_logits(model, prompts), edited, atol=1e-3)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (torch.zeros(D), "length 0"),
        (torch.ones(D + 1), "of width"),
        (torch.full((D,), torch.nan), "finite"),
    ],
)
def test_bad_directions_are_refused_before_any_weight_changes(bad: Tensor, complaint: str) -> None:
    model = architectures.model("qwen2")
    before = weights_of(model)
    with pytest.raises(ValueError, match=complaint), orthogonalised(model, bad):
        pass
    assert all(torch.equal(before[key], value) for key, value in model.original_model.state_dict().items())
