"""The explorer of a family: what is measured of each vector, and the page that shows it."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_pages import write_explored
from fake_run import HOSTILE
from test_report_browser import browser, opened  # noqa: F401 (a fixture)
from test_viz import parse

import mi_ortho as mo
from mi_ortho import RunError
from mi_ortho.behaviours import GENERIC_MODES
from mi_ortho.interventions.sites import attn_pattern
from mi_ortho.model import Pieces, pieces
from mi_ortho.pages.text import visible
from mi_ortho.steering import Setting
from mi_ortho.studies.explore import page as explorer
from mi_ortho.studies.explore.contents import (
    Explored,
    chosen_vectors,
    explore_frame,
    explore_vector,
    unsteered_attention,
)
from mi_ortho.studies.explore.page import explore_report

SOURCE, WORDS = 3, ["How", " can", *HOSTILE]


def unpack(text: str, largest: float) -> torch.Tensor:
    return (torch.tensor(list(base64.b64decode(text))) / 127 - 1) * largest


# --- pieces


class Bytes:
    """A tokenizer whose tokens are single bytes."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("text", ["plain", "naïve café", "שלום", "👍🏽 ok", "", "日本語 text"])
def test_pieces_are_characters_and_lose_nothing(text: str) -> None:
    ids = list(text.encode())
    split = pieces(Bytes(), ids)
    assert "".join(split.texts) == text and split.texts == tuple(text) and sum(split.sizes) == len(ids)


def test_bytes_that_are_no_character_stay_single() -> None:
    split = pieces(Bytes(), [0xFF, 97, 0xE2, 0x82, 0xAC, 0xE2])
    assert split.texts == ("\ufffd", "a", "€", "\ufffd") and split.sizes == (1, 1, 3, 1)


def test_attention_among_pieces_still_sums_to_one() -> None:
    split = Pieces(("a", "€", "b"), (1, 3, 1))
    patterns = torch.rand(2, 5, 5).tril().softmax(-1)
    joined = split.attention(patterns)
    assert joined.shape == (2, 3, 3)
    torch.testing.assert_close(joined.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(joined[:, 0, 1], patterns[:, 0, 1:4].sum(-1))
    torch.testing.assert_close(joined[:, 1, 0], patterns[:, 1:4, 0].mean(-1))
    with pytest.raises(ValueError, match="values of 4 tokens; expected 5"):
        split.mean(torch.zeros(4))


# --- what is measured


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three vectors with known answers on the embedded model: zero, an unembedding row, a residual direction."""
    model = mo.load_model()
    setting = Setting(model, mo.resid_post(SOURCE), "all", GENERIC_MODES, max_new_tokens=4)
    readout = mo.model.readout(model).matrix()
    token = 37
    prompts = setting.prompts(["How can I help?"])
    residual = mo.read(model, prompts, [setting.site])[setting.site][0]
    vectors = torch.stack(
        [torch.zeros(len(readout)), 9 * (readout - readout.mean(1, keepdim=True))[:, token], residual[5]]
    )
    with mo.start(tmp_path_factory.mktemp("explored"), "explore", {}) as run:
        explored = Explored(run, setting, "How can I help?", None, layer=5, nearest=3)
        plain = unsteered_attention(explored)
        named = [("base", 0), ("kl", 0), ("kl", 1)]
        explore_frame(explored, plain, vectors, named)
        for name, vector in zip(named, vectors):
            explore_vector(explored, plain, name, vector, "Sure: naïve €.", name[1])
        explore_frame(explored, plain, vectors, named)
        rows: list[Any] = run.records()
    return {
        "rows": rows,
        "run": run,
        "word": model.tokenizer.decode([token]),
        "readout": readout,
        "plain": plain,
        "explored": explored,
        "vectors": vectors,
    }


def test_shared_things_are_recorded_once(measured: dict[str, Any]) -> None:
    assert [row["kind"] for row in measured["rows"]] == ["frame", "vector", "vector", "vector"]


def test_a_zero_vector_changes_no_attention_and_others_only_after_their_layer(measured: dict[str, Any]) -> None:
    zero, token, _ = (torch.tensor(row["attention_change"]) for row in measured["rows"][1:])
    assert zero.abs().max() == 0 and measured["run"].load_rows("drawn")["base"].abs().max() == 0
    assert token[: SOURCE + 1].max() == 0 and token[SOURCE + 1 :].min() > 0.001 and token.max() <= 1


def test_attention_change_is_the_difference_of_two_readings(measured: dict[str, Any]) -> None:
    explored, vector = measured["explored"], measured["vectors"][1]
    prompts = explored.setting.prompts([explored.prompt])
    site = attn_pattern(5)
    with mo.intervene(explored.setting.model, {explored.setting.site: mo.Add(vector)}):
        steered = mo.read(explored.setting.model, prompts, [site])[site][0]
    difference = steered - measured["plain"][5]
    stored = measured["run"].load_rows("drawn")["kl"][0]
    torch.testing.assert_close(stored.float(), difference, atol=2e-3, rtol=0)
    moved = torch.tensor(measured["rows"][2]["attention_change"])[5]
    torch.testing.assert_close(moved, difference.abs().sum(-1).mean(-1) / 2, atol=1e-4, rtol=0)


def test_nearest_tokens_of_an_unembedding_row_begin_with_its_token(measured: dict[str, Any]) -> None:
    word, cosine = measured["rows"][2]["nearest"][0]
    assert word == measured["word"] and cosine == pytest.approx(1.0, abs=1e-3)
    assert measured["rows"][2]["farthest"][0][1] < 0
    null = measured["rows"][0]["null_cosine"]
    assert 0.1 < null < 0.5 < cosine  # chance is far from zero in so few dimensions


def test_presence_is_one_where_the_stream_is_the_vector(measured: dict[str, Any]) -> None:
    row = measured["rows"][3]
    assert row["presence"][5] == pytest.approx(1.0, abs=1e-3) and max(row["presence"]) == row["presence"][5]
    assert "".join(row["pieces"][row["start"] :]).strip() == "Sure: naïve €." and "\ufffd" not in "".join(row["pieces"])
    assert len(row["presence"]) == len(row["pieces"])


def test_vectors_are_spread_over_each_family() -> None:
    assert chosen_vectors({"kl": 3, "activation": 2}, 5)[1:] == [
        *(("kl", i) for i in range(3)),
        ("activation", 0),
        ("activation", 1),
    ]
    many = chosen_vectors({"activation": 1558}, 120)
    assert len(many) == 121 and many[1] == ("activation", 0) and many[-1] == ("activation", 1557)


# --- the page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explore_report(write_explored(tmp_path_factory.mktemp("family")))


def data_of(report: Path) -> dict[str, Any]:
    return json.loads(next(text for _, text in parse(report.read_text()).scripts if text.startswith('{"groups"')))


def test_page_holds_what_was_measured(report: Path) -> None:
    data = data_of(report)
    run = mo.open_run(report.parent)
    rows = [row for row in run.records() if row["kind"] == "vector"]
    assert data["groups"] == {"base": [0], "kl": list(range(12)), "activation": list(range(6))}
    natural, changes = run.load_tensors("frame")["natural"], run.load_rows("drawn")
    for k, (one, row) in enumerate(zip(data["vectors"], rows)):
        presence: Any = torch.tensor(row["presence"])
        torch.testing.assert_close(unpack(one["presence"], data["presence"]), presence, atol=0.004, rtol=0)
        largest = data["natural"]["largest"]
        torch.testing.assert_close(unpack(one["natural"], largest), natural[:, k], atol=largest / 127, rtol=0)
        low = torch.tril_indices(12, 12)
        change = changes[one["match"]][one["index"]].float()[:, low[0], low[1]].flatten()
        largest = data["pictures"]["largest"]
        torch.testing.assert_close(unpack(one["attention"], largest), change, atol=largest / 127, rtol=0)
        assert [data["words"][j] for j in one["tokens"]][2:] == [explorer.safe_word(word) for word in HOSTILE] + [
            f" w{j}" for j in range(12 - len(WORDS))
        ]
    texts = {(row["match"], row["index"]): row["text"] for row in data["vectors"]}
    assert texts["kl", 5] == visible(HOSTILE[1])


def test_large_models_leave_out_heads_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_explored(tmp_path / "family", wide=7)
    monkeypatch.setattr(explorer, "_PICTURES", 2 * 19 * 78)
    text = " ".join(parse(explore_report(path).read_text()).shown)
    assert "attention of 2 of 4 heads; shown are those that change most" in text
    assert "attention of the first 7 tokens of the prompt" in text
    assert 0 not in data_of(path / "report.html")["pictures"]["heads"]  # the head that changes least


def test_page_of_many_vectors_stays_small(report: Path) -> None:
    data = data_of(report)
    each = (len(json.dumps(data)) - len(data["base"])) / len(data["vectors"])
    texts = sum(len(one["text"]) + sum(len(text) for *_, text in one["elsewhere"]) for one in data["vectors"])
    assert texts <= explorer._TEXTS
    # attention and texts have budgets of their own; what remains grows with the vectors
    fixed = 4 / 3 * explorer._PICTURES + 3 * explorer._TEXTS
    assert 120 * (each - texts / len(data["vectors"])) + fixed + 150_000 < 3_000_000


def test_explorer_needs_its_family(tmp_path: Path) -> None:
    with mo.start(tmp_path, "explore", {}, at=tmp_path / "explore") as run:
        run.record({"kind": "frame"})
    with pytest.raises(RunError, match="mi-ortho explore RUN"):
        explore_report(tmp_path / "explore")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_explorer_works_in_a_browser(browser: Any, report: Path, width: int) -> None:  # noqa: F811
    page = next(opened(browser, report, width))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.text_content(".explore output") == "0"
    page.focus(".explore input[type=range]")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.text_content(".explore output") == "5"
    assert page.text_content(".completion.vector").startswith(HOSTILE[1])
    assert page.get_attribute(".explore input[type=range]", "aria-valuetext") == "index 5, kl"
    completion = page.text_content(".tokens.own")
    assert all(explorer.safe_word(word).replace("\n", "↵\n") in completion for word in HOSTILE)
    assert page.text_content(".near li").startswith(explorer.safe_word(HOSTILE[0]))
    page.focus(".tokens.own")
    page.keyboard.press("ArrowRight")
    assert "How" in page.inner_text("#tip") and "0" in page.inner_text("#tip")
    before = page.eval_on_selector_all("canvas", "all => all.map(one => one.toDataURL())")
    assert len(before) == 1 + 2 * 4
    page.click(".explore .step[data-step='1']")
    after = page.eval_on_selector_all("canvas", "all => all.map(one => one.toDataURL())")
    same = [a == b for a, b in zip(before, after)]
    assert same == [False, *[True] * 4, *[False] * 4]  # without steering nothing changes
    page.select_option(".explore .which", "activation")
    assert page.get_attribute(".explore input[type=range]", "max") == "5"
    page.keyboard.press("End")
    page.locator(".panels:not([hidden]) .panel").first.focus()
    page.keyboard.press("End")
    assert page.text_content(".explore output") == "5"
    assert page.heard == [("request", report.as_uri())] and page.evaluate("window.pwned") is None
    page.close()
