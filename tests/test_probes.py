"""Presence probes: planted directions are found with their exact AUC, streams equal batches, nulls keep their level."""

import math
from functools import partial

import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from torch import Tensor

from mi_ortho.interventions.subspace import Subspace, max_abs_cosine, span, subspace_overlap
from mi_ortho.probes import (
    LinearProbe,
    batched_second_moments,
    bootstrapped_auc,
    class_difference,
    cosines_with,
    counted_auc,
    covariance_set,
    discriminant_probe,
    false_discoveries,
    isotropic_set,
    logistic_probe,
    mean_shares,
    no_second_moments,
    null_sets,
    nullspace_probes,
    permuted_auc,
    presence_counts,
    reservoir,
    rotated_set,
    second_moments,
    shuffled_labels,
    sign_coherence,
    strongest,
    token_presence,
    upper_p_values,
    variance_explained,
)
from mi_ortho.stats import auc


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def passages_of(n: int, each: int) -> Tensor:
    return torch.arange(n * each) // each


# moments


def test_streaming_equals_the_batch_in_any_cut() -> None:
    x = torch.randn(300, 6, generator=rng(0)) + 3.0
    whole = second_moments(x)
    parts = batched_second_moments(x[a:b] for a, b in ((0, 7), (7, 8), (8, 210), (210, 300)))
    assert parts.count == 300
    for one, other in ((whole, parts), (whole, no_second_moments(6).merge(whole))):
        torch.testing.assert_close(one.covariance, other.covariance, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one.directions, other.directions, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.mean, x.double().mean(0))
    torch.testing.assert_close(whole.covariance, x.double().mT.cov(), rtol=1e-9, atol=1e-12)


def test_mean_shares_are_the_mean_squared_presence() -> None:
    x, v = torch.randn(200, 5, generator=rng(1)).double(), 7 * torch.randn(3, 5, generator=rng(2)).double()
    torch.testing.assert_close(mean_shares(second_moments(x), v), token_presence(x, v).square().mean(0))
    assert float(mean_shares(second_moments(x), torch.eye(5)).sum()) == pytest.approx(1.0)


def test_variance_explained_counts_a_direction_once() -> None:
    x = torch.randn(4000, 4, generator=rng(3)) * torch.tensor([3.0, 2.0, 1.0, 1.0]) + 50.0  # the mean must not count
    found = second_moments(x)
    expected = float(found.covariance[0, 0] / found.covariance.trace())
    assert variance_explained(found, torch.eye(4)[:1]) == pytest.approx(expected)
    assert variance_explained(found, torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0]])) == pytest.approx(expected)
    assert variance_explained(found, torch.eye(4)) == pytest.approx(1.0)


def test_the_class_difference_of_planted_means() -> None:
    x, d = torch.randn(50, 3, generator=rng(4)), torch.tensor([0.0, 2.0, 0.0])
    found = class_difference(second_moments(x + d), second_moments(x))
    torch.testing.assert_close(found, d.double(), rtol=1e-6, atol=1e-6)
    assert cosines_with(torch.eye(3), found).tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert sign_coherence(torch.tensor([[0.0, 1, 0], [0.0, -1, 0]]), found) == 0.5


# separation


def test_auc_is_the_mann_whitney_statistic_ties_included() -> None:
    scores = torch.randint(0, 12, (157, 4), generator=rng(5)).float() - 6
    labels = torch.rand(157, generator=rng(6)) < 0.4
    expected = [
        mannwhitneyu(s[labels], s[~labels]).statistic / int(labels.sum()) / int((~labels).sum())
        for s in scores.double().T.numpy()
    ]
    assert auc(scores, labels).tolist() == pytest.approx(expected, abs=1e-12)


def test_auc_of_negated_scores_is_the_complement() -> None:
    scores, labels = torch.randn(90, 3, generator=rng(7)), torch.arange(90) % 3 == 0
    torch.testing.assert_close(auc(-scores, labels), 1 - auc(scores, labels))


def test_a_planted_direction_has_the_auc_of_theory_and_stands_out() -> None:
    d_model, shift, n = 16, 1.5, 6000
    x = torch.randn(2 * n, d_model, generator=rng(8))
    labels = torch.arange(2 * n) < n
    x[:n, 0] += shift
    found = auc(x @ torch.eye(d_model)[:2].mT, labels)
    assert float(found[0]) == pytest.approx(norm.cdf(shift / math.sqrt(2)), abs=0.01)
    assert float(found[1]) == pytest.approx(0.5, abs=0.02)


def test_counted_auc_agrees_with_the_exact_one_within_its_own_bound() -> None:
    x = torch.randn(900, 8, generator=rng(9))
    labels = torch.arange(900) < 400
    x[labels, 0] += 1
    scores = token_presence(x, torch.eye(8)[:3])
    code, other = scores[labels], scores[~labels]
    halves = [presence_counts(code[:100]).merge(presence_counts(code[100:])), presence_counts(other)]
    for bins in (None, 8):
        pair = halves if bins is None else [presence_counts(scores[side], bins) for side in (labels, ~labels)]
        values, error = counted_auc(*pair)
        gap = (values - auc(scores, labels)).abs()
        assert bool((gap <= error + 1e-12).all()) and float(error.max()) < (0.01 if bins is None else 0.2)
    assert float((counted_auc(*halves)[0] - auc(scores, labels)).abs().max()) < 1e-3


def test_label_shuffles_keep_their_level_where_tokens_of_a_passage_agree() -> None:
    """Tokens of a passage share an offset: shuffling tokens instead of passages would reject nearly always."""
    p_values = []
    for seed in range(40):
        passages = passages_of(24, 20)
        scores = torch.randn(24, 1, generator=rng(seed))[passages] + 0.1 * torch.randn(480, 1, generator=rng(99 + seed))
        labels = passages % 2 == 0
        null = permuted_auc(scores, labels, passages, None, 199, rng(seed))
        apart = (auc(scores, labels) - 0.5).abs()
        p_values.append((1 + int(((null - 0.5).abs() >= apart).sum())) / 200)
    assert sum(p <= 0.1 for p in p_values) <= 10 and min(p_values) < 0.3


def test_shuffles_within_topics_ignore_what_topics_explain() -> None:
    passages = passages_of(8, 5)
    topics, labels = passages // 2, passages % 2 == 0
    scores = (10.0 * topics + labels)[:, None].double()  # inside every topic the code scores higher
    null = permuted_auc(scores, labels, passages, topics, 400, rng(0))
    assert (
        float(auc(scores, labels)[0]) == pytest.approx(float(null.max()))
        and 0.02 < float((null >= null.max() - 1e-9).double().mean()) < 0.13
    )  # one in 2^4 arrangements
    assert float(null.min()) == pytest.approx(1 - float(null.max()))


def test_the_bootstrap_covers_and_has_the_right_centre() -> None:
    passages = passages_of(60, 6)
    labels = passages % 2 == 0
    scores = torch.randn(360, 2, generator=rng(3)) + labels[:, None]
    draws = bootstrapped_auc(scores, labels, passages, 300, rng(4))
    value = auc(scores, labels)
    assert bool(((draws.mean(0) - value).abs() < 0.01).all())
    assert bool((draws.std(0) > 0.01).all()) and bool((draws.std(0) < 0.06).all())


# null sets


def test_null_sets_are_orthonormal_and_lie_where_they_should() -> None:
    covariance = torch.diag(torch.tensor([100.0, 50.0, 20.0, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3])).double()
    found = null_sets(covariance, 3, 30, rng(0))
    assert set(found) == {"isotropic", "covariance", "rotated"}
    for drawn in found.values():
        assert max(max_abs_cosine(one) for one in drawn) < 1e-5
        torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(30, 3))
    inside = {name: float(drawn[..., :3].square().sum(-1).mean()) for name, drawn in found.items()}
    assert inside["rotated"] == pytest.approx(1, abs=1e-5) and inside["covariance"] > 0.95
    assert inside["isotropic"] == pytest.approx(3 / 8, abs=0.1)
    first = found["rotated"][..., 0].square().mean()  # rotated: no vector is the leading component itself
    assert float(first) == pytest.approx(1 / 3, abs=0.08)


def test_members_of_a_set_stand_out_of_their_own_kind_at_the_stated_level() -> None:
    """Among the vectors of null sets, discoveries against other sets of the kind: at most the false-discovery rate."""
    hits = total = 0
    for seed in range(25):
        x = torch.randn(200, 12, generator=rng(seed)) * torch.linspace(3, 0.3, 12)
        labels = torch.arange(200) < 100
        covariance = x.mT.cov().double()
        family = covariance_set(covariance, 5, rng(100 + seed)).float()
        null = torch.cat([auc(x @ one.mT, labels) for one in null_sets(covariance, 5, 40, rng(seed))["covariance"]])
        q = false_discoveries(upper_p_values(auc(x @ family.mT, labels), null))
        hits, total = hits + int((q <= 0.05).any()), total + 1
    assert hits <= 5  # 25 families at 5 %: more than 5 has a chance below 1 %


def test_p_values_and_discoveries_by_hand() -> None:
    assert upper_p_values(torch.tensor([2.0]), torch.tensor([2.0, 1.0, 3.0])).tolist() == [0.75]  # ties count
    assert false_discoveries(torch.tensor([0.01, 0.02, 0.9])).tolist() == pytest.approx([0.03, 0.03, 0.9])


# samples


def test_reservoirs_merge_in_any_order_to_the_same_uniform_sample() -> None:
    x = torch.arange(40.0)[:, None]
    parts = [reservoir(x[10 * k : 10 * k + 10], k, 12, rng(k)) for k in range(4)]
    one = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    other = parts[3].merge(parts[1]).merge(parts[0].merge(parts[2]))
    assert one.rows.flatten().tolist() == other.rows.flatten().tolist() and one.seen == 40 and len(one.rows) == 12
    assert bool((one.passages == one.rows.flatten().long() // 10).all())
    counts = torch.zeros(40)
    for seed in range(300):
        found = reservoir(x, 0, 10, rng(seed))
        counts[found.rows.flatten().long()] += 1
    assert float(counts.min()) > 40 and float(counts.max()) < 115  # 75 expected


def test_the_strongest_places_and_the_largest_share() -> None:
    first = torch.tensor([[0.1, -0.9], [0.5, 0.2], [0.3, 0.1]])
    found = strongest(first, 4, 2).merge(strongest(first * 0.5, 7, 2)).merge(strongest(first * 0.8, 9, 2))
    assert found.passages.tolist() == [[4, 9], [4, 9]] and found.places.tolist() == [[1, 1], [1, 1]]
    assert found.values[0].tolist() == pytest.approx([0.5, 0.4])
    assert found.largest_share.tolist() == pytest.approx([0.25, 0.81])


# probes


def two_classes(d_model: int, shift: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    passages = passages_of(40, 25)
    labels = passages % 2 == 0
    x = torch.randn(1000, d_model, generator=rng(seed)).double()
    x[labels, 0] += shift
    return x, labels, passages


@pytest.mark.parametrize("fit", [discriminant_probe, partial(logistic_probe, penalty=1e-6)])
def test_probes_find_the_optimal_direction(fit) -> None:
    x, labels, _ = two_classes(6, 2.0, 0)
    x += torch.tensor([0.0, 5, 0, 0, 0, 0])  # both means far from 0
    mixing = torch.randn(6, 6, generator=rng(1)).double()
    probe = fit(x @ mixing.mT, labels)
    goal = torch.linalg.inv(mixing).mT @ torch.eye(6).double()[0]  # S^-1 of the difference of means
    assert float(torch.cosine_similarity(probe.direction, goal, dim=0)) > 0.97
    assert probe.accuracy(x @ mixing.mT, labels) == pytest.approx(norm.cdf(1.0), abs=0.03)


def test_nullspace_probes_remove_one_planted_direction_and_stop() -> None:
    x, labels, passages = two_classes(6, 3.0, 5)
    found = nullspace_probes(x, labels, passages, rng(0))
    assert 1 <= len(found.found) <= 2 and found.exhausted and found.aucs[0] > 0.95
    assert subspace_overlap(found.found, Subspace(torch.eye(6).double()[:1])) > 0.95


def test_nullspace_probes_count_redundant_copies() -> None:
    """The class is written independently into three coordinates: removing what one probe reads leaves some."""
    passages = passages_of(60, 20)
    labels = passages % 2 == 0
    x = torch.randn(1200, 8, generator=rng(2)).double()
    x[:, :3] += 2.0 * labels[:, None] * (1 + torch.randn(1200, 3, generator=rng(3)).abs())
    found = nullspace_probes(x, labels, passages, rng(1))
    assert len(found.found) >= 2 and max_abs_cosine(found.found.basis) < 1e-8
    limited = nullspace_probes(x, labels, passages, rng(1), most=1)
    assert len(limited.found) == 1 and not limited.exhausted


def test_nullspace_probes_find_nothing_under_shuffled_labels() -> None:
    fired = 0
    for seed in range(24):
        x, labels, passages = two_classes(5, 3.0, seed)
        offsets = torch.randn(40, 5, generator=rng(50 + seed)).double()[passages]  # passages differ, as real ones do
        mixed = shuffled_labels(labels, passages, rng(seed))
        fired += len(nullspace_probes(x + offsets, mixed, passages, rng(seed), draws=99).found) > 0
    assert fired <= 5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: second_moments(torch.tensor([[math.nan, 1.0]])), "NaN or infinity"),
        (lambda: batched_second_moments(iter(())), "empty stream"),
        (lambda: no_second_moments(3).mean, "expected at least 1"),
        (lambda: second_moments(torch.ones(1, 2)).covariance, "expected at least 2"),
        (lambda: mean_shares(second_moments(torch.ones(2, 2)), torch.zeros(1, 2)), "norm 0"),
        (lambda: auc(torch.ones(3, 1), torch.tensor([True, True, True])), "both classes"),
        (lambda: auc(torch.tensor([[math.nan], [1.0]]), torch.tensor([True, False])), "NaN"),
        (lambda: presence_counts(torch.tensor([[3.0]])), "cosines"),
        (lambda: counted_auc(presence_counts(torch.zeros(0, 1)), presence_counts(torch.zeros(1, 1))), "empty class"),
        (lambda: isotropic_set(5, 4, rng(0)), "1 to 4"),
        (lambda: covariance_set(torch.diag(torch.tensor([1.0, 0.0])).double(), 2, rng(0)), "positive variance"),
        (lambda: rotated_set(torch.zeros(3, 3).double(), 1, rng(0)), "all zero"),
        (lambda: null_sets(torch.eye(3).double(), 1, 0, rng(0)), "at least 1"),
        (lambda: upper_p_values(torch.ones(1), torch.ones(0)), "at least one"),
        (lambda: false_discoveries(torch.tensor([0.0])), "outside"),
        (lambda: reservoir(torch.ones(2, 2), 0, 0, rng(0)), "at least 1"),
        (lambda: strongest(torch.ones(0, 2), 0, 1), "at least 1"),
        (lambda: discriminant_probe(torch.ones(3, 2), torch.tensor([True, False, False])), "at least 2"),
        (lambda: subspace_overlap(span(torch.eye(2)), Subspace(torch.zeros(0, 2))), "empty subspace"),
        (
            lambda: permuted_auc(
                torch.ones(4, 1), torch.tensor([True, False, True, False]), torch.tensor([0, 0, 1, 1]), None, 1, rng(0)
            ),
            "several labels",
        ),
        (lambda: nullspace_probes(torch.randn(6, 2), torch.arange(6) < 3, torch.arange(6), rng(0)), "at least 4"),
    ],
)
def test_bad_inputs_say_what_to_do(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_a_probe_scores_and_is_judged_by_class() -> None:
    probe = LinearProbe(torch.tensor([1.0, 0.0]), 0.0)
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert probe.accuracy(x, torch.tensor([True, True, True, False])) == pytest.approx((2 / 3 + 0) / 2)
