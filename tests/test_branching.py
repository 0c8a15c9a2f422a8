"""Answers that share the cache of their prompt: what whole passes give, on every architecture, or whole passes."""

from typing import Any

import architectures
import pytest
import torch
from torch import Tensor

from mi_ortho.interventions.edits import Add
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import answer_logits, branch_log_probs, branching, tokenize
from mi_ortho.model.cache import network

TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea"]
OWNERS = [2, 0, 0, 1, 2, 2]
ANSWERS = [[11, 12, 13], [14], [9, 9], [15, 16, 17, 18], [20, 11], [12]]


def one_by_one(model: Any, vectors: Tensor, where: str) -> list[float]:
    sums = []
    for owner, answer in zip(OWNERS, ANSWERS, strict=True):
        prompts = tokenize(model, [TEXTS[owner]], answers=[answer])
        edits = {resid_post(1): Add(vectors[owner])}
        log_p = answer_logits(model, prompts, interventions=edits, where=where).log_softmax(-1)
        sums.append(float(log_p[0].gather(-1, torch.tensor(answer)[:, None]).sum()))
    return sums


def shared(model: Any, vectors: Tensor, where: str) -> Tensor:
    def edits(rows: Tensor) -> Any:
        return {resid_post(1): Add(vectors[rows])}

    return branch_log_probs(model, tokenize(model, TEXTS), OWNERS, ANSWERS, edits=edits, where=where)


@pytest.mark.parametrize("name", architectures.FAMILIES)
def test_answers_have_the_probabilities_that_whole_passes_give(name: str) -> None:
    model = architectures.model(name)
    vectors = torch.randn(3, architectures.D_MODEL, generator=torch.Generator().manual_seed(0))
    for where in ("prompt", "generated"):
        sums = shared(model, vectors, where).sum(-1)
        torch.testing.assert_close(sums, torch.tensor(one_by_one(model, vectors, where)), atol=1e-4, rtol=1e-4)
    assert branching._can_branch(model) is (name != "mamba")  # a state is not shared out


def test_prompts_are_run_once_where_the_cache_can_be_shared_out() -> None:
    model = architectures.model("llama")
    vectors = torch.zeros(3, architectures.D_MODEL)
    shared(model, vectors, "prompt")  # what is looked up once
    columns: list[int] = []
    handle = network(model).register_forward_pre_hook(
        lambda module, args, kwargs: columns.append(args[0].shape[1] if args else kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    shared(model, vectors, "prompt")
    handle.remove()
    length = tokenize(model, TEXTS).prompt_length
    assert columns == [length, max(map(len, ANSWERS)) - 1]


def test_a_cache_that_mixes_up_its_rows_is_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.cache_utils import Cache

    model, vectors = architectures.model("llama"), torch.ones(3, architectures.D_MODEL)
    branching._branching.pop(network(model), None)
    monkeypatch.setattr(
        Cache, "reorder_cache", lambda self, rows: [layer.batch_repeat_interleave(2) for layer in self.layers]
    )
    try:
        sums = shared(model, vectors, "prompt").sum(-1)
        assert not branching._branching[network(model)]
    finally:
        branching._branching.pop(network(model), None)
    torch.testing.assert_close(sums, torch.tensor(one_by_one(model, vectors, "prompt")), atol=1e-4, rtol=1e-4)


def test_rows_are_zero_behind_an_answer_and_none_may_be_empty() -> None:
    model = architectures.model("llama")
    log_p = shared(model, torch.zeros(3, architectures.D_MODEL), "prompt")
    assert log_p.shape == (6, 4)
    assert [(row != 0).sum().item() for row in log_p] == [len(one) for one in ANSWERS]
    with pytest.raises(ValueError, match="1 of them empty"):
        branch_log_probs(model, tokenize(model, TEXTS), [0, 1], [[9], []])
