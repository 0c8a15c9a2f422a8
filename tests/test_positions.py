"""Positions: one vocabulary for steering and reading, on prompts of different lengths, with and without answers."""

from dataclasses import replace

import pytest
import torch

import mi_ortho as mo
from mi_ortho.model import positions_of
from mi_ortho.model.positions import chosen_columns, includes_generated
from mi_ortho.model.slice import slice_model

TEXTS = ["How can I build a bomb?", "Tell me how I can buy a very large red kite."]


@pytest.fixture(scope="module")
def model():
    return mo.load_model()


@pytest.fixture(scope="module")
def prompts(model):
    return mo.tokenize(model, TEXTS, answers=["Yes.", "I can not."])


def words(model, prompts, where):
    """The text at the chosen positions of each prompt."""
    chosen = chosen_columns(prompts, where, 0, prompts.tokens.shape[1])
    return [model.tokenizer.decode(row[mask].tolist()).strip() for row, mask in zip(prompts.tokens, chosen)]


def test_roles_are_the_text_before_the_user_the_users_text_and_the_tag_of_the_answer(model, prompts):
    assert words(model, prompts, "user") == TEXTS
    whole = words(model, prompts, "prompt")
    for text, all_of_it, before, after in zip(
        TEXTS, whole, words(model, prompts, "system"), words(model, prompts, "assistant")
    ):
        assert before and after and text not in before + after
        assert all_of_it.startswith(before) and all_of_it.endswith(after)


def test_parts_cover_the_prompt_once_and_with_the_answers_everything(prompts):
    width = prompts.tokens.shape[1]
    parts = torch.stack([chosen_columns(prompts, name, 0, width) for name in ("system", "user", "assistant")])
    assert torch.equal(parts.sum(0) == 1, chosen_columns(prompts, "prompt", 0, width))
    assert torch.equal(chosen_columns(prompts, "prompt+generated", 0, width), chosen_columns(prompts, "all", 0, width))


def test_ranges_count_from_each_prompts_own_first_token_or_from_its_end(prompts):
    width, real = prompts.tokens.shape[1], prompts.mask[:, : prompts.prompt_length]
    lengths = real.sum(1)
    assert lengths[0] != lengths[1]
    for where, count in (
        ("0:3", [3, 3]),
        ("2:-1", lengths - 3),
        (":-4", lengths - 4),
        ("-5:", [5, 5]),
        ("1:", lengths - 1),
    ):
        assert chosen_columns(prompts, where, 0, width).sum(1).tolist() == torch.as_tensor(count).tolist(), where
    first = chosen_columns(prompts, "0:1", 0, width)
    assert first[0].nonzero().item() == int(real.shape[1] - lengths[0])  # after the padding
    assert torch.equal(
        chosen_columns(prompts, "not_first", 0, width), chosen_columns(prompts, "all", 0, width) & ~first
    )


def test_a_number_is_the_last_positions_of_the_prompt(prompts):
    width = prompts.tokens.shape[1]
    assert torch.equal(chosen_columns(prompts, 4, 0, width), chosen_columns(prompts, "-4:", 0, width))


@pytest.mark.parametrize("where", ["user", "2:5", "not_first", "assistant+generated", 3, "generated"])
def test_a_slice_steers_where_the_hooks_of_a_whole_pass_do(model, prompts, where):
    site, theta = mo.resid_post(2), torch.randn(128, generator=torch.Generator().manual_seed(0))
    z = slice_model(model, prompts, source=site, target=mo.resid_post(5), readout="all", where=where)
    with mo.intervene(model, {site: mo.Add(theta)}, prompts=prompts, where=where):
        whole = mo.read(model, prompts, [mo.resid_post(5)])[mo.resid_post(5)]
    torch.testing.assert_close(z(theta)[z.real], whole[prompts.mask].float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("where", ["user", "1:4", "not_first", "generated", "assistant+generated", 2])
def test_generation_with_a_cache_steers_the_same_positions_as_one_pass_over_what_it_wrote(model, where):
    site, theta = mo.resid_post(2), 8 * torch.randn(128, generator=torch.Generator().manual_seed(1))
    plain = mo.tokenize(model, TEXTS)
    ids = mo.model.generate_ids(model, plain, interventions={site: mo.Add(theta)}, where=where, max_new_tokens=5)
    answered = mo.tokenize(model, TEXTS, answers=ids)
    logits = mo.model.answer_logits(model, answered, interventions={site: mo.Add(theta)}, where=where)
    for row, written in zip(logits.argmax(-1), ids):
        assert row[: len(written)].tolist() == list(written)


@pytest.mark.parametrize(
    ("readout", "count"), [("user", None), ("mean of user", 1), ("assistant", None), ("0:2", 2), (3, 3)]
)
def test_what_is_read_is_what_the_positions_name(model, prompts, readout, count):
    z = slice_model(model, prompts, source=mo.resid_post(2), target=mo.resid_post(5), readout=readout)
    whole = mo.read(model, prompts, [mo.resid_post(5)])[mo.resid_post(5)].float()
    name = str(readout).removeprefix("mean of ")
    chosen = chosen_columns(prompts, name, 0, prompts.tokens.shape[1])
    if isinstance(readout, int):  # the last ones of the answers
        return
    rows = [row[mask] for row, mask in zip(whole, chosen)]
    read = z(torch.zeros(128))
    for row, real, expected in zip(read, z.real, rows):
        wanted = expected.mean(0, keepdim=True) if str(readout).startswith("mean") else expected
        torch.testing.assert_close(row[real], wanted, rtol=0, atol=1e-5)
    assert count is None or read.shape[1] == count


@pytest.mark.parametrize("text", ["", "0", "-3", "users", "user+", "3:", "1.5", ":", "a:b", "all + user", "٣"])
def test_what_is_no_position_is_refused_in_one_line(text):
    if text == "3:":
        assert positions_of(text) == text
        return
    with pytest.raises(ValueError, match="expected all, prompt, generated, not_first") as error:
        positions_of(text)
    assert "\n" not in str(error.value)


def test_positions_a_prompt_does_not_have_are_refused(model, prompts):
    for where, told in (
        ("90:", "no position of prompt 0"),
        (900, "number of prompt tokens"),
        ("user+900", "number of"),
    ):
        with pytest.raises(ValueError, match=told):
            slice_model(model, prompts, source=mo.resid_post(2), target=mo.resid_post(5), where=where)
    with pytest.raises(ValueError, match="character offsets"):
        slice_model(model, replace(prompts, roles=None), source=mo.resid_post(2), target=mo.resid_post(5), where="user")


def test_which_positions_go_on_while_the_model_writes():
    assert [includes_generated(where) for where in ("all", "not_first", "generated", "user+generated")] == [True] * 4
    assert not any(includes_generated(where) for where in ("prompt", "user", "2:", 3))
