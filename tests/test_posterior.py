"""Graded judgement: Bayes' rule by hand, planted directions that make one answer likely, and the log-probability."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from toys import rng

import mi_ortho as mo
from mi_ortho.behaviours import CHAT_MODES, INCOHERENT, Modes
from mi_ortho.model import EMBEDDED, answer_logits, intervene
from mi_ortho.model.tokenizer import encode
from mi_ortho.steering import (
    Setting,
    complete,
    mean_log_probability,
    measure,
    measure_graded,
    mode_posterior,
    natural_openings,
    yardstick,
)
from mi_ortho.steering.posterior import posterior_of
from mi_ortho.studies.shared.subject import texts_of

PROMPT = "How can I build a bomb?"
OPENINGS = {"code": ["class Bomb:", "import random"], "refuse": ["I'm sorry, but I can't help"], "other": ["Yes"]}


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(mo.load_model(), mo.resid_post(3), "all", mo.load_modes(EMBEDDED / "modes.json"), max_new_tokens=12)


def test_posterior_by_hand() -> None:
    likelihoods = torch.tensor([[0.2, 0.4, 0.1], [0.0, 0.1, 0.3]]).log()
    torch.testing.assert_close(posterior_of(likelihoods, [2, 1]), torch.tensor([[0.75, 0.25], [1 / 7, 6 / 7]]))


def test_posterior_does_not_depend_on_how_often_an_opening_is_given() -> None:
    likelihoods = torch.randn(3, 2, generator=rng())
    doubled = likelihoods[:, [0, 0, 0, 1]]
    torch.testing.assert_close(posterior_of(doubled, [3, 1]), posterior_of(likelihoods, [1, 1]))


def test_posterior_is_the_hooked_model_s(setting: Setting) -> None:
    """Differential: the same number from answers one at a time, with the vector added by a hook."""
    vectors = 2.0 * torch.randn(3, 128, generator=rng(1))
    found = mode_posterior(setting, PROMPT, OPENINGS, most=3)(vectors)
    for row, vector in zip(found, vectors, strict=True):
        likelihood = {
            mode: [likelihood_of(setting, vector, text) for text in texts] for mode, texts in OPENINGS.items()
        }
        means = torch.tensor([sum(values) / len(values) for values in likelihood.values()])
        torch.testing.assert_close(row, means / means.sum(), rtol=1e-3, atol=1e-6)


def likelihood_of(setting: Setting, vector: torch.Tensor, text: str) -> float:
    ids = encode(setting.model.tokenizer, text)[:3]
    prompts = setting.prompts([PROMPT], [ids])
    logits = answer_logits(setting.model, prompts, interventions={setting.site: mo.Add(vector)})
    return float(torch.stack([row.softmax(-1)[token] for row, token in zip(logits[0], ids, strict=True)]).prod())


def test_a_planted_direction_raises_its_mode_and_no_other(setting: Setting) -> None:
    """A long vector before the last block along the unembedding of a mode's first token makes that mode certain."""
    last = Setting(setting.model, mo.resid_post(int(setting.model.cfg.n_layers) - 2), "all", setting.modes)
    network: Any = setting.model
    unembed = network.original_model.get_output_embeddings().weight
    openings = {mode: texts[:1] for mode, texts in OPENINGS.items()}
    first = [encode(setting.model.tokenizer, texts[0])[0] for texts in openings.values()]
    assert len(set(first)) == 3
    rows = unembed[first].detach().float()
    planted = 1e3 * (rows - rows.mean(dim=0))
    found = mode_posterior(last, PROMPT, openings, most=1)(planted)
    assert found.diagonal().min() > 0.95
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3))


def test_the_graded_measure_is_the_posterior_of_the_base_s_behaviour(setting: Setting) -> None:
    base = torch.randn(128, generator=rng(3))
    vectors = torch.stack([base, torch.zeros(128)])
    z = mo.slice_model(setting.model, setting.prompts([PROMPT]), source=setting.site, target=mo.resid_post(5))
    shown = complete(setting, [PROMPT], base[None])[0][0].mode
    graded = replace(setting, openings={**OPENINGS, shown: OPENINGS.get(shown, ["The"])})
    yards = [yardstick(one, [PROMPT], base, mo.match(z, base), answer_tokens=4) for one in (setting, graded)]
    plain, rows = (measure_graded(yard, vectors) for yard in yards)
    assert plain == measure(yards[0], vectors) and "posterior" not in plain[0]
    wanted = mode_posterior(graded, PROMPT, graded.openings)(vectors)[:, list(graded.openings).index(shown)]
    assert [row.pop("posterior") for row in rows] == pytest.approx(wanted.tolist()) and rows == plain


def test_bad_openings(setting: Setting) -> None:
    for openings in ({"code": ["x"]}, {"code": ["x"], "refuse": []}, {}):
        with pytest.raises(ValueError, match="expected at least two modes") as error:
            mode_posterior(setting, PROMPT, openings)
        assert "\n" not in str(error.value)


def test_natural_openings_are_answers_that_show_their_mode(setting: Setting) -> None:
    asked = {mode: texts[:2] for mode, texts in texts_of(None).natural.items() if mode in ("code", "refuse")}
    found = natural_openings(setting, {**asked, "unknown": ("x",)})
    assert set(found) == {"code", "refuse"}
    for mode, texts in found.items():
        assert texts and all(mo.classify(text, setting.modes) == mode for text in texts)


def test_mean_log_probability_is_the_mean_of_each_alone(setting: Setting) -> None:
    texts = [PROMPT, "Hello", PROMPT]
    answers = [encode(setting.model.tokenizer, text) for text in ("class Bomb:", "I'm sorry, but", "")]
    found = mean_log_probability(setting.model, texts, answers)
    assert found[2].isnan()
    for value, text, answer in zip(found[:2], texts, answers):
        logits = answer_logits(setting.model, mo.tokenize(setting.model, [text], answers=[answer]))[0]
        alone = [row.log_softmax(-1)[token] for row, token in zip(logits, answer, strict=True)]
        torch.testing.assert_close(value, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


def test_what_the_unsteered_model_finds_improbable_is_no_behaviour(setting: Setting) -> None:
    """The same completion under rules that ask the model and rules that do not; no steering leaks into the measure."""
    vectors = torch.stack([torch.zeros(128), 40.0 * torch.randn(128, generator=rng(2)) / 128**0.5])
    plain = [row[0] for row in complete(setting, [PROMPT], vectors)]
    asked = Modes(setting.modes.modes, setting.modes.default, least=-4.0)
    strict = Setting(setting.model, setting.site, "all", asked, max_new_tokens=12)
    fluent, salad = (row[0] for row in complete(strict, [PROMPT], vectors))
    assert [one.log_probability for one in plain] == [None, None]
    assert fluent.log_probability is not None and salad.log_probability is not None
    assert fluent.log_probability > -1.0 and fluent.mode == plain[0].mode != INCOHERENT
    assert salad.log_probability < -4.0 and salad.mode == INCOHERENT
    assert not asked.same(salad.mode, salad.mode)
    with intervene(setting.model, {}):
        alone = mean_log_probability(setting.model, [PROMPT], [salad.ids])
    assert float(alone) == pytest.approx(salad.log_probability, abs=1e-4)


def test_incoherent_is_no_behaviour() -> None:
    assert INCOHERENT in CHAT_MODES.names and INCOHERENT not in CHAT_MODES.behaviours
    assert not CHAT_MODES.same(INCOHERENT, INCOHERENT) and CHAT_MODES.same("poem", "poem")


def test_an_answer_that_comes_twice_has_its_value_twice(setting: Setting) -> None:
    answers = [encode(setting.model.tokenizer, text) for text in ("Yes", "import random", "Yes")]
    values = mean_log_probability(setting.model, [PROMPT] * 4, [*answers, []])
    assert values.shape == (4,) and values[0] == values[2] != values[1] and values[3].isnan()
