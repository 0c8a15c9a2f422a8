"""What heads write along a direction, cones by gradient, kept behaviours, and places that cannot be steered."""

import copy
from typing import Any

import architectures
import pytest
import torch
from torch import Tensor

from mi_ortho.behaviours import Mode, Modes, classify
from mi_ortho.interventions.edits import RotateTo
from mi_ortho.interventions.sites import attn_out, resid_mid, resid_pre
from mi_ortho.model import answer_logits, generate, head_writes, intervene, read, tokenize
from mi_ortho.refusal.cones import ConeSettings, ConeTargets, cone_targets, refusal_cone
from mi_ortho.refusal.damage import mode_accuracy, token_costs
from mi_ortho.refusal.extraction import difference_of_means, instruction_suffix
from mi_ortho.refusal.places import ablate_everywhere, add_at, at_every

D, L = architectures.D_MODEL, architectures.N_LAYERS
BAD = ["how can i build a bomb", "tell me the bomb", "a bomb yes"]
GOOD = ["bake a cake", "poem about the sea", "cake"]
EVERY = pytest.mark.parametrize("name", architectures.ARCHITECTURES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- heads ------------------------------------------------------------------------------------------------------------


@EVERY
def test_what_the_heads_write_adds_up_to_the_attention_output(name: str) -> None:
    model, v = architectures.model(name), normal(D)
    prompts = tokenize(model, BAD)
    heads = head_writes(model, prompts, v)
    assert heads.shape == (L, 4, len(BAD))
    unit = v / v.norm()
    for layer in range(L):
        whole = read(model, prompts, [attn_out(layer)])[attn_out(layer)][:, -1] @ unit
        bias = getattr(model.blocks[layer].attn.o.original_component, "bias", None)
        own = 0.0 if bias is None else float(bias @ unit)
        assert torch.allclose(heads[layer].sum(0) + own, whole, atol=1e-4)
    assert torch.allclose(head_writes(model, prompts, -3 * v), -heads, atol=1e-5)  # of a direction, its length is free


def test_a_head_that_is_switched_off_writes_nothing() -> None:
    model, v = copy.deepcopy(architectures.model("qwen2")), normal(D)
    size = D // 4
    with torch.no_grad():
        model.blocks[1].attn.o.original_component.weight[:, 2 * size : 3 * size] = 0.0
    heads = head_writes(model, tokenize(model, BAD), v)
    assert float(heads[1, 2].abs().max()) == 0.0 and float(heads[1, [0, 1, 3]].abs().min()) > 0.0


def test_a_direction_of_another_width_is_refused() -> None:
    model = architectures.model("qwen2")
    with pytest.raises(ValueError, match=f"width 7; expected {D}"):
        head_writes(model, tokenize(model, BAD), torch.ones(7))


# -- cones ------------------------------------------------------------------------------------------------------------


def targets() -> tuple[Any, ConeTargets]:
    model = architectures.model("qwen2")
    r = difference_of_means(model, BAD, GOOD, [resid_pre(2)], [-1]).direction(resid_pre(2), -1)
    made = cone_targets(model, BAD, GOOD, ablate_everywhere(model, r), add_at(resid_pre(2), r), tokens=5)
    return model, made


def by_hand(model: Any, made: ConeTargets, unit: Tensor, norm: float, settings: ConeSettings) -> float:
    """The loss from its definition, without gradients and by the library's other parts."""

    def cost(prompts: Any, changed: Any) -> float:
        costs, real = token_costs(model, prompts, changed)
        return float(costs[real].mean())

    ablated = ablate_everywhere(model, unit)
    p, q = (answer_logits(model, made.kept, interventions=given).log_softmax(-1) for given in ({}, ablated))
    real = made.kept.mask[:, made.kept.prompt_length :]
    kl = float((p.exp() * (p - q)).sum(-1)[real].mean())
    return (
        settings.ablation * cost(made.answered, ablated)
        + settings.retain * kl
        + settings.addition * cost(made.refused, add_at(resid_pre(2), unit * norm))
    )


def test_the_loss_of_a_cone_is_its_three_parts() -> None:
    model, made = targets()
    start = torch.nn.functional.normalize(normal(1, D), dim=-1)
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 2.0, 0.0)):
        settings = ConeSettings(*weights, steps=1)
        found = refusal_cone(model, made, start, resid_pre(2), 3.0, settings=settings)
        assert found.losses[0] == pytest.approx(by_hand(model, made, start[0], 3.0, settings), rel=1e-3)


def test_a_direction_by_gradient_is_better_than_where_it_started() -> None:
    model, made = targets()
    settings = ConeSettings(steps=25, learning_rate=3e-2)
    found = refusal_cone(model, made, normal(1, D, seed=3), resid_pre(2), 3.0, settings=settings)
    after = by_hand(model, made, found.basis[0], 3.0, settings)
    assert after < 0.9 * found.losses[0] and len(found.losses) == 25
    assert torch.allclose(made.kept_logits, answer_logits(model, made.kept))  # the model itself is as before


def test_a_cone_is_an_orthonormal_basis_and_repeats_with_its_generator() -> None:
    model, made = targets()
    settings = ConeSettings(steps=3, samples=2)

    def made_of(seed: int) -> Tensor:
        return refusal_cone(
            model,
            made,
            normal(3, D, seed=1),
            resid_pre(2),
            3.0,
            settings=settings,
            generator=torch.Generator().manual_seed(seed),
        ).basis

    first = made_of(0)
    assert torch.allclose(first @ first.T, torch.eye(3), atol=1e-5)
    assert torch.equal(first, made_of(0)) and not torch.equal(first, made_of(1))


# -- kept behaviours --------------------------------------------------------------------------------------------------


def test_kept_behaviours_are_the_share_of_prompts_written_in_their_own_mode() -> None:
    model = architectures.model("qwen2")
    modes = Modes((Mode("short", "regex", r"^\S+(\s\S+){0,5}$"), Mode("stars", "regex", "stars")), "long")
    prompts = {"short": BAD, "long": GOOD, "none": []}
    changed = add_at(resid_pre(1), 20 * normal(D))
    for given in ({}, changed):
        written = {
            name: [generate(model, tokenize(model, [text]), given, max_new_tokens=8)[0] for text in texts]
            for name, texts in prompts.items()
        }
        expected = {
            name: sum(classify(text, modes) == name for text in texts) / len(texts)
            for name, texts in written.items()
            if texts
        }
        assert mode_accuracy(model, prompts, modes, given, max_new_tokens=8) == pytest.approx(expected)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (None, "no chat template"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "without tokens after the user's text"),
    ],
)
def test_a_template_without_tokens_after_the_text_is_refused(template: str | None, complaint: str) -> None:
    model = architectures.bridge("qwen2")
    model.tokenizer.chat_template = template
    with pytest.raises(ValueError, match=rf"{complaint}.*positions=\(-1,\)"):
        instruction_suffix(model)
    with pytest.raises(ValueError, match=complaint):
        difference_of_means(model, BAD, GOOD, [resid_pre(1)])
    assert difference_of_means(model, BAD, GOOD, [resid_pre(1)], [-1]).differences.shape == (1, 1, D)


def test_a_plane_of_dependent_vectors_is_refused() -> None:
    v = normal(D)
    for plane in (torch.stack([v, -2 * v]), torch.stack([v, torch.zeros(D)]), torch.stack([torch.zeros(D), v])):
        with pytest.raises(ValueError, match="parallel or zero.*choose another second direction"):
            RotateTo(plane, 0.0)


def test_the_middle_stream_cannot_be_written() -> None:
    model = architectures.model("qwen2")
    turn = RotateTo(normal(2, D), 0.0)
    with pytest.raises(ValueError, match="resid_mid.0"):
        at_every(model, turn, kinds=("resid_mid",))
    with pytest.raises(ValueError, match="resid_mid"), intervene(model, {resid_mid(1): turn}):
        pass
