"""Attention sinks are found by their norms: planted ones at their block and position, none where none are."""

from typing import Any

import architectures
import pytest
import torch

import mi_ortho as mo
from mi_ortho.interventions.sites import attn_out, resid_post, resid_pre
from mi_ortho.model.sinks import ordinary, sinks, without_sinks
from mi_ortho.nulls import covariance_matched, mean_abs_cosine

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


@NAMES
def test_sinks_are_neither_steered_nor_read(name: str):
    model = architectures.model(name)
    prompts = mo.tokenize(model, TEXTS)
    row, column = 2, 3
    scale = 100.0 / float(sinks(model, prompts).ratios[2, row, column])
    with mo.intervene(model, {resid_post(1): Lengthened(row, column, scale)}, prompts=prompts):  # pyright: ignore
        left = without_sinks(model, prompts)
    assert without_sinks(model, prompts) is prompts  # none where none is
    assert left.passive is not None and left.passive.nonzero().tolist() == [[row, column]]
    sites: Any = {"source": resid_post(1), "target": resid_post(2)}
    z, plain = (mo.slice_model(model, each, **sites, readout="all") for each in (left, prompts))
    theta = torch.randn(z.d_model, generator=torch.Generator().manual_seed(0))
    assert not z.where_mask[row, column] and int(z.where_mask.sum()) == int(plain.where_mask.sum()) - 1
    assert not z.real[row, column] and not z(theta)[row, column].any() and plain(theta)[row, column].any()
    mean = mo.slice_model(model, left, **sites, readout="mean")(theta)[row, 0]
    assert torch.allclose(mean, z(theta)[row][left.active[row]].mean(0), atol=1e-5)
    # the same places under hooks, in copies and in generation
    with mo.intervene(model, {resid_post(1): mo.Add(theta)}, prompts=left):
        steered = mo.read(model, left, [resid_post(1)])[resid_post(1)]
    before = mo.read(model, prompts, [resid_post(1)])[resid_post(1)]
    moved = (steered - before).norm(dim=-1) > 1e-6
    assert torch.equal(moved & prompts.mask, z.where_mask)
    twice = left.repeat(2).passive
    assert twice is not None and int(twice.sum()) == 2 and left.prompts_only().passive is not None


def test_covariance_controls_without_sinks_are_no_single_direction():
    model = architectures.model("llama")
    prompts, site, row, column = mo.tokenize(model, TEXTS), resid_post(1), 2, 3
    scale = 100.0 / float(sinks(model, prompts).ratios[2, row, column])
    with mo.intervene(model, {site: Lengthened(row, column, scale)}, prompts=prompts):  # pyright: ignore
        chosen = ordinary(model, prompts)
        stream = mo.read(model, prompts, [site])[site]
        longer = stream.clone()
        if float(longer[row, column].norm()) < 10 * float(longer[prompts.mask].norm(dim=-1).median()):
            longer[row, column] *= scale  # read before the hook that lengthens it
    assert int(chosen.sum()) == int(prompts.mask.sum()) - 1
    likeness = {}
    for kept, where in (("with", prompts.mask), ("without", chosen)):
        drawn = covariance_matched(longer[where].float(), 64, torch.Generator().manual_seed(0))
        likeness[kept] = float(mean_abs_cosine(drawn))
    assert likeness["with"] > 0.8 and likeness["without"] < 0.5, likeness
