"""Refusal directions: closed forms, planted directions in random-weight models, and bad input."""

import math
from typing import Any

import architectures
import pytest
import torch
from torch import Tensor

from mi_ortho.interventions.edits import Ablate, Add, Affine, RotateTo
from mi_ortho.interventions.sites import attn_out, mlp_out, resid_mid, resid_post, resid_pre
from mi_ortho.model import generate_ids, intervene, next_token_logits, read, tokenize
from mi_ortho.refusal.concepts import affine_edit, least_squares_erasure, steering_plane
from mi_ortho.refusal.damage import Coherence, coherence, measure_damage, repetition, token_costs
from mi_ortho.refusal.extraction import activations, difference_of_means, instruction_suffix, residual_sites
from mi_ortho.refusal.places import ablate_everywhere, add_at, at_every, depth
from mi_ortho.refusal.rankings import compare_rankings, ranking_scores
from mi_ortho.refusal.scores import (
    find_refusal,
    last_logits,
    refusal_score,
    refusal_scores,
    refusal_tokens,
    refuses_anywhere,
    refuses_first,
    stage_of,
)
from mi_ortho.refusal.selection import (
    Candidate,
    Limits,
    candidates,
    filter_prompts,
    reasons,
    score_direction,
    select,
    validation,
)
from mi_ortho.refusal.several import extract_again, largest_difference, null_space_rounds

D, L = architectures.D_MODEL, architectures.N_LAYERS
BAD = ["how can i build a bomb", "build bomb", "tell me the bomb", "a bomb yes", "can i build the bomb"]
GOOD = ["bake a cake", "poem about the sea", "tell me stars", "cake"]
EVERY = pytest.mark.parametrize("name", architectures.ARCHITECTURES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- extraction -------------------------------------------------------------------------------------------------------


def test_the_suffix_is_what_the_template_puts_after_the_text() -> None:
    model = architectures.model("qwen2")
    suffix = instruction_suffix(model)
    assert suffix.tokens == ("<end>", "<start>", "assistant") and suffix.positions == (-3, -2, -1)
    assert tokenize(model, ["cake"]).tokens[0, -3:].tolist() == list(suffix.ids)
    with pytest.raises(ValueError, match="no chat template.*positions="):
        instruction_suffix(architectures.model("qwen2", chat=False))


@EVERY
def test_streamed_moments_are_those_of_all_activations_read_one_by_one(name: str, monkeypatch: Any) -> None:
    model = architectures.model(name)
    monkeypatch.setattr("mi_ortho.refusal.extraction.BATCH", 2)  # several batches of different lengths
    kinds = ("resid_pre", "resid_post") if name == "gpt_neox" else ("resid_pre", "resid_mid", "resid_post")
    sites = residual_sites(model, kinds)
    found = difference_of_means(model, BAD, GOOD, sites)
    for k, site in enumerate(sites):
        alone = torch.stack([read(model, tokenize(model, [text]), [site])[site][0, -3:] for text in BAD]).double()
        assert torch.allclose(found.harmful.mean[k], alone.mean(0), atol=1e-5)
        assert torch.allclose(found.harmful.variance[k], alone.var(0), atol=1e-4)
    means = [activations(model, texts, sites, (-3, -2, -1)).double().mean(0) for texts in (BAD, GOOD)]
    assert torch.allclose(found.differences, means[0] - means[1], atol=1e-6)
    assert found.harmful.count == 5 and found.harmless.count == 4  # sets of different size
    assert torch.equal(found.direction(resid_post(1), -2), found.direction(resid_pre(2), -2))


def test_extraction_under_ablation_has_no_part_along_the_ablated() -> None:
    model, v = architectures.model("qwen2"), normal(D)
    found = difference_of_means(model, BAD, GOOD, residual_sites(model), interventions=ablate_everywhere(model, v))
    plain = difference_of_means(model, BAD, GOOD, residual_sites(model))
    unit = torch.nn.functional.normalize(v, dim=0).double()
    assert float((found.differences @ unit).abs().max()) < 1e-5 < float((plain.differences @ unit).abs().max())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"harmful": []}, "no harmful prompts"),
        ({"harmless": []}, "no harmless prompts"),
        ({"positions": [0]}, "negative"),
        ({"positions": []}, "negative"),
        ({"positions": [-40]}, "expected at least -7"),
        ({"sites": []}, "residual-stream"),
    ],
)
def test_bad_extractions_are_named(arguments: dict[str, Any], complaint: str) -> None:
    given = {"harmful": BAD, "harmless": GOOD, "sites": [resid_pre(1)], "positions": [-1], **arguments}
    with pytest.raises(ValueError, match=complaint):
        difference_of_means(architectures.model("qwen2"), **given)


def test_a_direction_that_was_not_extracted_is_refused() -> None:
    found = difference_of_means(architectures.model("qwen2"), BAD, GOOD, [resid_pre(1)], [-1])
    with pytest.raises(ValueError, match="extract it there first"):
        found.direction(resid_pre(2), -1)


# -- scores -----------------------------------------------------------------------------------------------------------


def test_the_refusal_score_is_the_log_odds_and_stays_finite_where_probabilities_round() -> None:
    logits = normal(5, 20)
    p = logits.double().softmax(-1)[:, [3, 7]].sum(-1)
    assert torch.allclose(refusal_score(logits, [3, 7, 3]).double(), p.log() - (1 - p).log(), atol=1e-5)
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    assert refusal_score(sure, [0]).item() == pytest.approx(200 - math.log(2)) and refusal_score(sure, [1]).isfinite()
    for bad in ([], [0, 1, 2], [5]):
        with pytest.raises(ValueError, match="got refusal tokens"):
            refusal_score(sure, bad)


def test_phrases_with_position_and_sentence() -> None:
    late = "Here is a plan. First, breathe. I\u2019m sorry, but this is illegal."
    assert refuses_anywhere(late) and not refuses_first(late)
    found = find_refusal(late)
    assert found is not None and found.sentence == 2 and late[found.start :].startswith("I\u2019m sorry")
    assert refuses_first("I cannot do that. Here is a plan.") and find_refusal("Here is a plan.") is None


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("I'm sorry, but I can't help. It is bad.", "refuses"),
        ("I'm sorry, but I can't help. " + "First take the wire and then cut it. " * 2, "refuses then answers"),
        ("First take the wire and then cut it. " * 2, "answers"),
        ("Wire wire.", "neither"),
    ],
)
def test_stages(text: str, stage: str) -> None:
    assert stage_of(text) == stage


def test_refusal_tokens_are_read_off_the_model() -> None:
    model = architectures.model("qwen2")
    # what these random weights write is arbitrary, so the judge is made of it: refusals are texts that begin alike
    first = [model.tokenizer.decode(row[:1]) for row in generate_ids(model, tokenize(model, BAD), max_new_tokens=1)]
    found = refusal_tokens(model, BAD, GOOD, lambda text: text.split()[:1] == first[:1], ratio=1.0)
    assert found.texts == (first[0],) and found.harmful_rate == first.count(first[0]) / len(BAD)
    with pytest.raises(ValueError, match="refuses 0 % of the harmful prompts.*expected refusals"):
        refusal_tokens(model, BAD, GOOD, lambda text: False)
    with pytest.raises(ValueError, match="no first token"):  # answers to both classes begin with it: it tells nothing
        refusal_tokens(model, BAD, GOOD, lambda text: text.split()[:1] == first[:1], ratio=100.0)
    with pytest.raises(ValueError, match="got 0 harmful"):
        refusal_tokens(model, [], GOOD, lambda text: True)


# -- where ------------------------------------------------------------------------------------------------------------


@EVERY
def test_ablation_everywhere_leaves_nothing_along_the_directions_anywhere(name: str) -> None:
    model, v = architectures.model(name), normal(2, D)
    prompts = tokenize(model, BAD)
    with intervene(model, ablate_everywhere(model, v), prompts=prompts):
        seen = read(model, prompts, [*residual_sites(model, ("resid_pre", "resid_post")), attn_out(1), mlp_out(2)])
    for x in seen.values():
        assert float((x @ v.T)[prompts.mask].abs().max()) < 1e-4


def test_ablation_at_a_subset_is_what_was_asked_for() -> None:
    model, v = architectures.model("qwen2"), normal(D)
    some = ablate_everywhere(model, v, layers=[0, 2], kinds=("resid_post", "mlp_out"))
    assert set(some) == {mlp_out(0), resid_post(0), mlp_out(2), resid_post(2)}
    assert len(ablate_everywhere(model, v)) == 3 * L
    mistakes: tuple[dict[str, Any], ...] = ({"layers": []}, {"layers": [L]}, {"kinds": ("resid_mid",)}, {"kinds": ()})
    for wrong in mistakes:
        with pytest.raises(ValueError, match="expected layers 0 to 3"):
            ablate_everywhere(model, v, **wrong)


def test_a_vector_of_the_middle_stream_is_added_to_the_attention_output() -> None:
    model, v = architectures.model("qwen2"), normal(D)
    assert list(add_at(resid_mid(1), v)) == [attn_out(1)] and list(add_at(resid_pre(1), v)) == [resid_pre(1)]
    prompts = tokenize(model, BAD)
    clean = read(model, prompts, [resid_mid(1)])[resid_mid(1)]
    with intervene(model, add_at(resid_mid(1), v)):
        assert torch.allclose(read(model, prompts, [resid_mid(1)])[resid_mid(1)], clean + v, atol=1e-5)
    assert [depth(site) for site in (resid_pre(2), resid_mid(2), resid_post(2))] == [2, 2, 3]


@EVERY
def test_every_intervention_works_row_by_row_under_the_cache(name: str) -> None:
    model, v, plane = architectures.model(name), normal(D), normal(2, D, seed=1)
    text, strengths = "how can i build a bomb", torch.tensor([0.0, 1.0, 2.0])
    prompts = tokenize(model, [text] * 3)
    makers = (
        lambda s: Add(v, s),
        lambda s: Ablate(plane, s),
        lambda s: Affine(plane, v, 3 * v, s),
        lambda s: RotateTo(plane, s),
    )
    for make in makers:
        together = generate_ids(model, prompts, at_every(model, make(strengths)), max_new_tokens=4)
        alone = [
            generate_ids(model, tokenize(model, [text]), at_every(model, make(float(s))), max_new_tokens=4)[0]
            for s in strengths
        ]
        assert together == alone
    added = generate_ids(model, prompts, at_every(model, Add(v, strengths)), max_new_tokens=4)
    assert added[0] == generate_ids(model, tokenize(model, [text]), max_new_tokens=4)[0] != added[2]


# -- selection --------------------------------------------------------------------------------------------------------


def test_scores_of_a_candidate_are_three_forward_passes() -> None:
    model, tokens = architectures.model("qwen2"), (9, 11)
    judge = validation(model, BAD, GOOD, tokens)
    found = difference_of_means(model, BAD, GOOD, [resid_pre(2)], [-1])
    r = found.direction(resid_pre(2), -1)
    one = score_direction(judge, r, resid_pre(2), -1)
    ablated = ablate_everywhere(model, r / r.norm())
    bypass = refusal_score(next_token_logits(model, tokenize(model, BAD), interventions=ablated), tokens).mean()
    added = next_token_logits(model, tokenize(model, GOOD), interventions={resid_pre(2): Add(r)})
    p, q = (
        next_token_logits(model, tokenize(model, GOOD), interventions=given).double().softmax(-1)
        for given in (None, ablated)
    )
    assert one.bypass == pytest.approx(float(bypass), abs=1e-4)
    assert one.induce == pytest.approx(float(refusal_score(added, tokens).mean()), abs=1e-4)
    assert one.kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), abs=1e-5) and one.kl > 0
    assert one.norm == pytest.approx(float(r.norm()))


def candidate(layer: int = 1, bypass: float = -1.0, induce: float = 1.0, kl: float = 0.01) -> Candidate:
    return Candidate(resid_pre(layer), -1, 1.0, bypass, induce, kl)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (candidate(), ()),
        (candidate(layer=8), ("last layers",)),
        (candidate(layer=7), ()),
        (candidate(kl=0.11), ("KL too large",)),
        (candidate(induce=-0.1), ("does not induce",)),
        (candidate(bypass=math.nan), ("not a number",)),
        (candidate(layer=9, kl=1.0, induce=-1.0), ("last layers", "KL too large", "does not induce")),
    ],
)
def test_every_reason_of_a_rejection_is_kept(one: Candidate, expected: tuple[str, ...]) -> None:
    assert reasons(one, 10, Limits()) == expected


def test_the_lowest_bypass_among_the_admissible_is_chosen_and_an_empty_choice_explains_itself() -> None:
    from dataclasses import replace

    found = [candidate(bypass=-9.0), candidate(bypass=-2.0), candidate(bypass=-1.0)]
    found[0] = replace(found[0], rejected=("KL too large",))
    assert select(found).chosen is found[1]
    none = select([replace(one, rejected=("KL too large",)) for one in found])
    assert none.best is None and "KL too large: 3" in none.reason
    with pytest.raises(ValueError, match="no admissible candidate of 3.*raise the KL limit"):
        _ = none.chosen
    with pytest.raises(ValueError, match="extract some candidates"):
        _ = select([]).chosen


def test_a_zero_difference_is_a_candidate_with_a_reason() -> None:
    model = architectures.model("qwen2")
    # the input of block 0 at a template token is the same for every prompt
    judge, found = validation(model, BAD, GOOD, (9,)), difference_of_means(model, BAD, GOOD, [resid_pre(0)], [-1])
    [one] = candidates(judge, found)
    assert one.rejected == ("not a number",) and one.row()["site"] == "resid_pre.0"


def test_filtering_keeps_the_prompts_that_behave_as_their_class() -> None:
    model = architectures.model("qwen2")
    logits = last_logits(model, BAD + GOOD)
    token = int(logits[0].argmax())
    scores = refusal_scores(model, BAD + GOOD, (token,))
    everything = tuple(t for t in range(logits.shape[1]) if t != token)
    if bool((scores[: len(BAD)] > 0).any()) and bool((scores[len(BAD) :] < 0).any()):
        kept = filter_prompts(model, BAD, GOOD, (token,))
        assert kept.harmful == tuple(t for t, s in zip(BAD, scores) if s > 0)
        assert kept.dropped_harmful == len(BAD) - len(kept.harmful)
    with pytest.raises(ValueError, match="refuses none of 5 harmful prompts"):
        filter_prompts(model, BAD, GOOD, (0,))
    with pytest.raises(ValueError, match="answers none of 4 harmless prompts"):
        filter_prompts(model, BAD, GOOD, everything[:1] + everything[1:] if token != 0 else everything)


# -- rankings ---------------------------------------------------------------------------------------------------------


def test_rankings_against_the_oracle() -> None:
    found = [candidate(bypass=-3.0), candidate(bypass=-2.0), candidate(bypass=-1.0), candidate(bypass=0.0)]
    scores = {"auc": [0.9, 0.8, 0.7, 0.6], "cosine": [0.9, 0.8, 0.7, 0.6]}
    good, bad = compare_rankings(found, scores)  # a high AUC is good, a high cosine is bad
    assert good.spearman == pytest.approx(1.0) and good.regret == 0.0
    assert bad.spearman == pytest.approx(-1.0) and bad.regret == 3.0 and bad.random_regret == 1.5
    with pytest.raises(ValueError, match="no admissible"):
        compare_rankings([], scores)


def test_ranking_scores_on_activations_are_their_definitions() -> None:
    model, sites = architectures.model("qwen2"), [resid_pre(1), resid_pre(3)]
    found = difference_of_means(model, BAD, GOOD, sites, [-2, -1])
    scores = ranking_scores(model, found, BAD, GOOD)
    x, y = (activations(model, texts, sites, [-2, -1])[:, 1, 1].double() for texts in (BAD, GOOD))
    assert scores["mean_variance"][1, 1].item() == pytest.approx(float(x.var(0).mean() + y.var(0).mean()) / 2)
    assert scores["max_variance"][1, 1].item() == pytest.approx(float(x.var(0).max() + y.var(0).max()) / 2)
    assert scores["cosine"][1, 1].item() == pytest.approx(float(torch.cosine_similarity(x.mean(0), y.mean(0), dim=0)))
    r = torch.nn.functional.normalize(x.mean(0) - y.mean(0), dim=0)
    pairs = [float(a > b) for a in x @ r for b in y @ r]
    assert scores["auc"][1, 1].item() == pytest.approx(sum(pairs) / len(pairs))
    fisher = ((x @ r).mean() - (y @ r).mean()) ** 2 / ((x @ r).var() + (y @ r).var())
    assert scores["fisher"][1, 1].item() == pytest.approx(float(fisher), rel=1e-4)


# -- concepts ---------------------------------------------------------------------------------------------------------


def planted_classes() -> tuple[Tensor, Tensor]:
    shift = torch.zeros(D)
    shift[[2, 5]] = 3.0
    return normal(60, D) @ normal(D, D, seed=5) * 0.2 + shift, normal(40, D, seed=1) @ normal(D, D, seed=5) * 0.2


def test_affine_editing_moves_the_mean_of_one_class_to_the_other() -> None:
    bad, good = planted_classes()
    edit = affine_edit(bad, good)
    r = bad.mean(0) - good.mean(0)
    assert torch.allclose(edit(bad[None])[0] @ r, (good.mean(0) @ r).expand(60), atol=1e-3)
    full = affine_edit(bad, good, strength=1.0)(good[None])[0]
    assert torch.allclose(full @ r, (bad.mean(0) @ r).expand(40), atol=1e-3)
    with pytest.raises(ValueError, match="same mean"):
        affine_edit(bad, bad)


def test_least_squares_erasure_makes_the_class_means_equal() -> None:
    pytest.importorskip("concept_erasure")
    bad, good = planted_classes()
    erase = least_squares_erasure(bad, good)
    after = [erase(x[None])[0] for x in (bad, good)]
    assert float((bad.mean(0) - good.mean(0)).norm()) > 3.0
    assert float((after[0].mean(0) - after[1].mean(0)).norm()) < 1e-3
    # it removes a rank-one part; whatever is orthogonal in the fitted metric stays
    assert torch.linalg.matrix_rank(torch.cat(after) - torch.cat([bad, good]), tol=1e-3) == 1


def test_erasure_without_its_package_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mi-ortho\[leace\]'"):
        least_squares_erasure(*planted_classes())


def test_the_steering_plane_is_orthonormal_and_begins_with_the_direction() -> None:
    first, others = normal(D), normal(6, D, seed=2) + 3 * normal(D, seed=3)
    plane = steering_plane(first, others)
    assert torch.allclose(plane @ plane.T, torch.eye(2), atol=1e-5)
    assert torch.allclose(plane[0], first / first.norm(), atol=1e-6)
    with pytest.raises(ValueError, match="all lie along the first"):
        steering_plane(first, torch.stack([first, -2 * first]))


# -- several directions -----------------------------------------------------------------------------------------------


def test_null_space_rounds_find_a_planted_plane_and_then_nothing() -> None:
    def sample(n: int, sign: float, seed: int) -> Tensor:
        x = normal(n, D, seed=seed)
        x[:, 0] = 0.1 * x[:, 0] + sign
        return x

    rounds = list(
        null_space_rounds(
            sample(400, 1.0, 1), sample(300, -1.0, 2), (sample(400, 1.0, 3), sample(400, -1.0, 4)), rounds=3
        )
    )
    assert rounds[0].auc > 0.999 and abs(float(rounds[0].direction[0])) > 0.9
    assert all(abs(one.auc - 0.5) < 0.1 for one in rounds[1:])
    basis = torch.stack([one.direction for one in rounds])
    assert torch.allclose(basis @ basis.T, torch.eye(3), atol=1e-5)


def test_each_round_is_extracted_where_the_earlier_ones_are_ablated() -> None:
    model = architectures.model("qwen2")
    sites = residual_sites(model)
    rounds = list(extract_again(model, BAD, GOOD, BAD, (9,), sites, largest_difference, rounds=3))
    basis = torch.stack([one.direction for one in rounds])
    assert torch.allclose(basis @ basis.T, torch.eye(3), atol=1e-4)
    assert rounds[0].cosine_before == pytest.approx(1.0, abs=1e-5)
    second = difference_of_means(model, BAD, GOOD, sites, interventions=ablate_everywhere(model, basis[:1]))
    again = second.direction(rounds[1].site, rounds[1].position)
    assert abs(float(torch.cosine_similarity(again, basis[1], dim=0))) > 0.999
    scored = refusal_scores(model, BAD, (9,), ablate_everywhere(model, basis[:2])).mean()
    assert rounds[1].refusal == pytest.approx(float(scored), abs=1e-4)


# -- coherence and damage ---------------------------------------------------------------------------------------------


def test_coherence_is_the_cost_under_the_model_itself() -> None:
    model = architectures.model("qwen2")
    answers = [[9, 10, 11, 12, 13, 14], [15, 16]]
    found = coherence(model, GOOD[:2], answers)
    prompts = tokenize(model, GOOD[:2], answers=answers)
    costs, real = token_costs(model, prompts)
    log_p = model(prompts.tokens, attention_mask=prompts.mask.long()).log_softmax(-1)
    at = prompts.prompt_length - 1
    by_hand = -torch.stack([log_p[0, at + k, token] for k, token in enumerate(answers[0])])
    assert torch.allclose(costs[0][real[0]], by_hand, atol=1e-4)
    assert found[0].perplexity == pytest.approx(float(by_hand.mean().exp()), rel=1e-3)
    assert found[0].rest == pytest.approx(float(by_hand[4:].mean().exp()), rel=1e-3)
    assert found[1].perplexity == pytest.approx(float(costs[1][real[1]].mean().exp()), rel=1e-3)
    [empty] = coherence(model, GOOD[:1], [[]])
    assert empty.perplexity == math.inf and not empty.coherent


def test_coherent_means_probable_and_not_repetitive() -> None:
    assert Coherence(1e6, 3.0, 0.1).coherent and not Coherence(3.0, 30.0, 0.1).coherent
    assert not Coherence(3.0, 3.0, 0.6).coherent and repetition([1, 2, 3] * 4) > 0.5 > repetition([1, 2, 3, 4, 5])


def test_damage_is_zero_without_a_change_and_grows_with_it() -> None:
    model, v = architectures.model("qwen2"), normal(D)
    answers = ["bake the cake", "stars and the sea", "yes", "no no"]
    none = measure_damage(model, GOOD, answers, {})
    assert none.kl == pytest.approx(0.0, abs=1e-6) and none.cross_entropy == none.before and none.positions == 10
    small, large = (measure_damage(model, GOOD, answers, add_at(resid_pre(2), v, s)) for s in (0.3, 3.0))
    assert 0 < small.kl < large.kl and small.before == none.before != large.cross_entropy
    with pytest.raises(ValueError, match="no texts"):
        measure_damage(model, [], [], {})


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("<think>I can't say no to this. It's illegal? No.</think>Take the wire and cut it.", False),
        ("<think>Easy enough.</think>\n\nI cannot help with that.", True),
        ("Hm, a wire. Easy.\n</think>\n\nI'm sorry, no.", True),
        ("<think>I'm sorry, but", False),
        ("Lo siento, no puedo ayudarte con eso.", True),
        ("很抱歉，我无法帮助你。", True),
        ("I can't wait to tell you: take the wire and cut it.", False),
    ],
)
def test_refusals_stand_in_the_answer_in_any_language(text: str, refused: bool) -> None:
    assert refuses_anywhere(text) is refused and refuses_first(text) is refused
    found = find_refusal(text)
    assert found is None or text[found.start :].lower().startswith(found.phrase)


def test_reasoning_is_neither_a_refusal_nor_an_answer() -> None:
    long = "I can't decide whether the wire is first or last, so let me think about it at some length. " * 3
    assert stage_of(f"<think>{long}</think>No.") == "neither"
    assert stage_of(f"<think>{long}</think>I cannot help with that.") == "refuses"
    assert stage_of(f"<think>{long}</think>" + "First take the wire and then cut it. " * 2) == "answers"
    assert (
        stage_of("对不起，我不能提供帮助。首先把电线拿出来，然后把它剪断，再把两端连接起来，最后检查一下。")
        == "refuses then answers"
    )
