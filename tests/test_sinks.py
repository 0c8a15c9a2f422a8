"""Attention sinks are found by their norms: planted ones at their block and position, none where none are."""

from typing import Any

import architectures
import pytest
import torch

import mi_ortho as mo
from mi_ortho.model.sinks import sinks
from mi_ortho.sites import attn_out, resid_post, resid_pre

NAMES = pytest.mark.parametrize("name", architectures.ARCHITECTURES)
TEXTS = ["how can i build a bomb", "cake", "tell me the poem about the sea"]


class Lengthened:
    """Multiplies the residual stream of one token of one row."""

    rows = 3

    def __init__(self, row: int, column: int, factor: float) -> None:
        self.place, self.factor = (row, column), factor

    def __call__(self, x: Any) -> Any:
        longer = x.clone()
        if x.shape[1] > self.place[1]:
            longer[self.place] *= self.factor
        return longer


@NAMES
def test_a_planted_sink_is_found_where_it_is_and_nowhere_else(name: str):
    model = architectures.model(name)
    prompts = mo.tokenize(model, TEXTS)
    assert not sinks(model, prompts).mask[1:].any()
    before = sinks(model, prompts).ratios
    row, column = 2, 3
    scale = 100.0 / float(before[2, row, column])
    with mo.intervene(model, {resid_post(1): Lengthened(row, column, scale)}, prompts=prompts):  # pyright: ignore
        found = sinks(model, prompts)
    at = found.at(resid_post(1))
    assert at.nonzero().tolist() == [[row, column]]
    assert torch.equal(found.at(resid_pre(2)), at) and torch.equal(found.at(attn_out(2)), at)
    assert not found.mask[1].any() and found.anywhere()[row, column]
    assert torch.allclose(found.ratios[2, row, column], torch.tensor(100.0), rtol=0.1)


@NAMES
def test_padding_is_no_sink_and_does_not_count_for_the_median(name: str):
    model = architectures.model(name)
    together = sinks(model, mo.tokenize(model, ["cake", "cake how can i build a bomb"]), factor=1.01)
    assert not together.mask[:, 0, :6].any() and (together.ratios[:, 0, :6] == 0).all()
    one = mo.tokenize(model, ["cake"])
    alone, pair = sinks(model, one), sinks(model, one.repeat(2))
    assert torch.allclose(pair.ratios[:, 1], alone.ratios[:, 0], rtol=1e-4)
    with pytest.raises(ValueError, match="more than 1"):
        sinks(model, one, factor=1.0)


def test_norms_are_those_of_what_is_read():
    model = architectures.model("qwen2")
    prompts = mo.tokenize(model, TEXTS)
    found = sinks(model, prompts)
    for site in (resid_pre(0), resid_post(0), resid_post(3)):
        norms = mo.read(model, prompts, [site])[site].norm(dim=-1)
        ratios = norms / norms[prompts.mask].median()
        assert torch.allclose(found.ratios[site.boundary][prompts.mask], ratios[prompts.mask], rtol=1e-5)
