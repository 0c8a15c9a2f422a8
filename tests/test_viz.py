"""Text, pictures and the report without a browser: escaping, the security policy, numbers, joins, missing parts."""

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_run import HOSTILE, TOKENS, records, write_run
from markupsafe import Markup

from mi_ortho import pages
from mi_ortho.pages import data_table, embed, matrices, plots, text
from mi_ortho.studies.family import page_figures as family
from mi_ortho.studies.family import page_strips as strips
from mi_ortho.studies.family.page import family_report
from mi_ortho.studies.family.page_records import joined, load_family


class Elements(HTMLParser):
    """Every start tag with its attributes, and the content of scripts, styles and everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.styles: list[str] = []
        self.shown: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.inside and self.inside[-1] == "style":
            self.styles.append(data)
        else:
            self.shown.append(data)


def parse(html: str) -> Elements:
    found = Elements()
    found.feed(html)
    return found


def digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_report(write_run(tmp_path_factory.mktemp("family")))


@pytest.fixture(scope="module")
def parsed(report: Path) -> Elements:
    return parse(report.read_text(encoding="utf-8"))


# --- text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_data_blocks_hold_any_text_and_only_text(hostile: str) -> None:
    html = str(text.json_script({hostile: [hostile, float("nan")]}))
    found = parse(html)
    assert [tag for tag, _ in found.tags] == ["script"] and found.shown == []
    assert json.loads(found.scripts[0][1]) == {text.visible(hostile): [text.visible(hostile), None]}
    html.encode("utf-8")


def test_visible_leaves_no_character_that_hides_or_reorders_text() -> None:
    shown = text.visible("".join(map(chr, range(0x2100))) + "\u2066\ud800")
    assert {c for c in shown if ord(c) < 32} == {"\t", "\n"}
    assert not re.search("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert text.visible("plain text, שלום") == "plain text, שלום"


@pytest.mark.parametrize("argument", ["How can I?", "it's", '"', "a\nb", "$HOME;rm", "--n=3", ""])
def test_command_line_gives_back_its_arguments_in_a_shell(argument: str) -> None:
    assert shlex.split(text.command_line(["/opt/x/mi-ortho", "family", argument])) == ["mi-ortho", "family", argument]


# --- pictures


def test_tokens_and_values_must_fit() -> None:
    with pytest.raises(ValueError, match="3 tokens"):
        pages.attention(["a", "b", "c"], torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="4 rows of values for 3 tokens"):
        pages.token_values(["a", "b", "c"], torch.zeros(4))
    with pytest.raises(ValueError, match="2 labels for 5 values"):
        pages.token_values(["a", "b", "c"], torch.zeros(3, 5), ["x", "y"])
    with pytest.raises(ValueError, match="expected one shape"):
        pages.compare(["a"], {"x": torch.zeros(1, 1, 1), "y": torch.zeros(2, 1, 1)})


def test_attention_scale_is_symmetric_where_differences_are_shown() -> None:
    patterns = torch.tensor([[[1.0, 0.0], [-0.25, float("nan")]]])
    props = pages.attention(["a", "b"], patterns).props
    assert props["minValue"] == -1.0 and props["maxValue"] == 1.0
    assert props["attention"] == [[[1.0, 0.0], [-0.25, 0.0]]]
    assert pages.attention(["a", "b"], patterns / 4).props["maxValue"] == 0.25


def test_large_attention_is_packed_within_half_a_step() -> None:
    patterns = torch.rand(9, 65, 65) * 2 - 1
    visual = pages.attention(["t"] * 65, patterns)
    assert visual.component == "Heads"
    raw = torch.frombuffer(bytearray(base64.b64decode(str(visual.props["data"]))), dtype=torch.uint8)
    values = (raw.reshape(9, 65, 65) / 127.0 - 1) * float(str(visual.props["max"]))
    assert (values - patterns).abs().max() <= 0.5 / 127 + 1e-6


def test_comparison_shows_conditions_and_their_change() -> None:
    visual = pages.compare(["a", "b"], {"plain": torch.full((1, 2, 2), 0.5), "steered": torch.full((1, 2, 2), 0.25)})
    rows = {row["name"]: row for row in visual.props["rows"]}  # type: ignore[attr-defined]
    assert list(rows) == ["plain", "steered", "steered − plain"]
    assert rows["steered − plain"]["max"] == 0.25
    assert set(base64.b64decode(rows["steered − plain"]["data"])) == {0}  # the largest decrease


def test_tokens_cannot_become_markup() -> None:
    for token in TOKENS + list(HOSTILE):
        shown = embed.safe_token(token)
        assert not re.search(r"<[^\u2060]|&[^\u2060]", shown) and len(shown) < 140
    assert embed.safe_token("<div>").replace("\u2060", "") == "<div>"


def test_bundle_cannot_end_its_script_element() -> None:
    assert (
        "</script" not in embed.bundle() and "<!--" not in embed.bundle() and "sourceMappingURL" not in embed.bundle()
    )
    assert len(embed.bundle()) > 1_000_000


def unpack(packed: str, shape: tuple[int, int]) -> torch.Tensor:
    raw = torch.frombuffer(bytearray(base64.b64decode(packed)), dtype=torch.int16).double().reshape(shape)
    return raw.sign() * 10 ** ((raw.abs() - 1) / 2000 - 12) * (raw != 0)


def test_matrix_values_survive_packing() -> None:
    values = torch.tensor([[1.0, -0.5], [3.2e-8, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(unpack(matrices.pack(values), (2, 2)), values, rtol=1e-3, atol=0)


def test_large_matrix_keeps_the_strongest_entry_of_each_block() -> None:
    values = torch.full((100, 100), 1e-9)
    values[37, 81], values[60, 3] = -0.75, 0.5
    data = json.loads(parse(str(pages.heat_map(values, title="t", limit=25))).scripts[0][1])
    shown = unpack(data["values"], (data["rows"], data["columns"]))
    assert data["block"] == 4 and shown.shape == (25, 25) and not data["symmetric"]
    assert shown[9, 20].item() == pytest.approx(-0.75, rel=1e-3) and shown[15, 0].item() == pytest.approx(0.5, rel=1e-3)


def test_curve_follows_the_theme_and_carries_its_numbers() -> None:
    series = [
        pages.Series("family <b>", [0, 1, 2], [0.5, None, 0.25], marks=["m0", "m1", "m0"]),
        pages.Series("other", [0, 2], [1.0, 2.0], "c1", "other", dots=True),
    ]
    html = str(pages.curve(pages.Panel("Loss", lines={"base <i>": 1.0}, end=2, group="kl"), series))
    found = parse(html)
    assert not [code for code in plots.COLOURS if code in html] and "var(--ink)" in html and "var(--m0)" in html
    assert not {tag for tag, _ in found.tags} & {"style", "i", "image"} and "s-other" in html
    data = json.loads(found.scripts[0][1])
    assert data["series"][0] == {"label": "family <b>", "key": "family", "x": 3, "y": [0.5, None, 0.25]}
    assert data["series"][1]["x"] == [0, 2]
    left, top, wide, high = data["box"]
    assert 0 < left < left + wide < 256 and 0 < top < top + high < 163


# --- the run as read


def test_rows_are_joined_and_counted_once() -> None:
    vector = {
        "kind": "vector",
        "match": "kl",
        "index": 0,
        "norm": 1.0,
        "mode": "code",
        "transfer_modes": ["code", "refuse"],
        "transfer_texts": ["x", "y"],
    }
    rows = joined(
        [
            {"kind": "unsteered", "prompt": 0, "role": "train", "prompt_text": "a", "mode": "refuse"},
            {"kind": "unsteered", "prompt": 1, "role": "held_out", "prompt_text": "b", "mode": "refuse"},
            {"kind": "unsteered", "prompt": 2, "role": "held_out", "prompt_text": "c", "mode": "refuse"},
            {"kind": "search", "match": "kl", "attempt": 0, "index": None, "kept": False, "status": "COLLAPSED"},
            {"kind": "search", "match": "kl", "attempt": 1, "index": 0, "kept": True, "status": "CONVERGED"},
            {"kind": "shrunk", "match": "kl", "index": 0, "norm": 1.0, "norm_shrunk": 0.8},
            vector,
            vector,
        ]
    )
    vectors = [row for row in rows if row["kind"] == "vector"]
    assert len(vectors) == 1
    assert (vectors[0]["status"], vectors[0]["norm_shrunk"], vectors[0]["norm"]) == ("CONVERGED", 0.8, 1.0)
    held_out = [(row["prompt_text"], row["mode"], row["text"]) for row in rows if row["kind"] == "transfer"]
    assert held_out == [("b", "code", "x"), ("c", "refuse", "y")]


def test_end_of_family_in_every_form(tmp_path: Path) -> None:
    run = load_family(write_run(tmp_path / "a", sizes={"kl": 5}))
    assert run.end("kl") == (47, "the first of 5 vectors in a row that lose the mode")
    for end, wanted in (({"kl": 5}, 5), ({"kl": None}, None), ({}, None), ({"kl": {"count": 4}}, 4)):
        assert type(run)(run.config, run.environment, {"end": end}, run.rows, {}, {}, {}).end("kl")[0] == wanted


def test_an_end_beyond_the_recorded_vectors_is_told_and_not_drawn(tmp_path: Path) -> None:
    found = parse(family_report(write_run(tmp_path / "a", sizes={"kl": 40, "activation": 20})).read_text())
    places = [attrs["style"] for tag, attrs in found.tags if tag == "i" and attrs.get("class") == "end"]
    assert places and set(places) == {"left:55.0%"}  # of the activation match alone: 11 of 20
    shown = " ".join(" ".join(found.shown).split())
    assert "ends at index 47" in shown and "beyond the vectors recorded here" in shown
    assert shown.count("marked by the line") == 1 and shown.count("Shaded: beyond the end") == 1
    lines = [axis.get_xlim()[1] for end in (3.0, 30.0) for axis in drawn_axes(plots.Panel("t", "u", end=end), 10)]
    assert lines[0] == lines[1]


def drawn_axes(panel: plots.Panel, points: int) -> list[Any]:
    """The axes of a panel with one straight series; nothing in them lies outside their limits."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.plot(range(points), range(points))
    plots._decorate(axes, panel, True)
    low, high = axes.get_xlim()
    boxes: list[Any] = list(axes.patches)
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in boxes]
    assert all(low <= left and right <= high for left, right in spans)
    assert bool(spans) == (panel.end is not None and panel.end < points)
    return [axes]


def test_colours_start_with_the_base_and_the_unsteered_mode(tmp_path: Path) -> None:
    colours = load_family(write_run(tmp_path / "a", sizes={"kl": 9})).colours
    assert list(colours)[:2] == ["code", "refuse"] and len(set(colours.values())) == len(colours) == 5


def test_largest_cosine_sees_every_pair_and_sign(tmp_path: Path) -> None:
    run = load_family(write_run(tmp_path / "a", sizes={"kl": 40, "activation": 8}))
    found = family.cosines(run)
    assert found is not None
    clean = {name: value for name, value, _ in family.largest_cosines(*found)}
    assert clean["base and the kl family"] < 1e-6 < clean["between the two families"]
    planted = dict(run.vectors) | {"kl": run.vectors["kl"].clone()}
    planted["kl"][39] = -planted["kl"][0]
    broken = family.cosines(type(run)(run.config, {}, {}, run.rows, planted, {}, {}))
    assert broken is not None
    assert {name: value for name, value, _ in family.largest_cosines(*broken)}[
        "base and the kl family"
    ] == pytest.approx(1.0)


def test_family_of_a_random_base_keeps_only_the_chosen_behaviour(tmp_path: Path) -> None:
    run = load_family(write_run(tmp_path / "a", sizes={"kl": 5}))
    row = {"kind": "control", "control": "random_base", "keeps": True}
    assert not run.keeps(row | {"mode": "refuse"}) and run.keeps(row | {"mode": "code", "keeps": False})
    assert run.keeps({"kind": "vector", "keeps": True, "mode": "refuse"})


def test_strips_count_what_keeps_the_behaviour(tmp_path: Path) -> None:
    run = load_family(write_run(tmp_path / "a", sizes={"kl": 30}))
    own, *controls = strips.strips(run, "kl")
    assert own["kept"] == sum(row["keeps"] for row in records(sizes={"kl": 30}) if row["kind"] == "vector")
    assert own["measured"] == 30 and str(own["svg"]).count("M") == 30
    sparse = next(one for one in controls if one["measured"] == 8)
    assert json.loads(parse(str(sparse["data"])).scripts[0][1])["step"] == 4


def test_texts_are_cut_to_a_budget() -> None:
    assert data_table.text_limit(["x" * 5000] * 10, 50_000) == 4000
    assert 3000 * data_table.text_limit(["x" * 5000] * 3000, 500_000) <= 500_000


# --- the whole page


def test_policy_allows_exactly_the_scripts_of_the_page(parsed: Elements) -> None:
    policy = next(
        attrs["content"] for tag, attrs in parsed.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none';") and "unsafe-eval" not in policy
    scripts = {digest(content) for kind, content in parsed.scripts if kind is None}
    allowed = re.search(r"script-src ([^;]*);", policy)
    assert allowed and set(allowed[1].split()) == scripts and len(scripts) == 2
    assert f"style-src {digest(parsed.styles[0])};" in policy and len(parsed.styles) == 1


def test_page_refers_to_nothing_outside_itself(parsed: Elements, report: Path) -> None:
    assert not {tag for tag, _ in parsed.tags} & {"img", "link", "iframe", "object", "embed", "base", "form"}
    for _, attrs in parsed.tags:
        for name, value in attrs.items():
            assert not name.startswith("on") and name not in ("src", "srcdoc", "action")
            assert name not in ("href", "xlink:href") or (value or "").startswith("#")
    assert report.stat().st_size < 3_000_000


def test_hostile_texts_are_shown_as_text(parsed: Elements) -> None:
    data = json.loads(next(content for kind, content in parsed.scripts if kind and content.startswith('{"fields"')))
    shown = {row[data["fields"].index("text")] for row in data["rows"]}
    for hostile in HOSTILE:
        assert text.clip(text.visible(hostile), 4000) in shown
    assert HOSTILE[1] in parsed.shown and HOSTILE[0] in parsed.shown  # the unsteered completion, a candidate's
    assert any("<b>How</b> do I forge a passport?" in part for part in parsed.shown)


def test_page_tells_the_story(parsed: Elements) -> None:
    shown = " ".join(parsed.shown)
    for wanted in (
        "47 of 64 mutually orthogonal vectors",
        "not supported",
        "mi-ortho family --prompt 'How can I build a bomb?'",
        "The family ends at index 47",
        "linear null",
        "mean × √n",
        "How to read this",
        "between the two families",
    ):
        assert wanted in shown, wanted
    panels = [attrs for tag, attrs in parsed.tags if attrs.get("class") == "panel"]
    assert len(panels) == 12
    components = [str(attrs["data-component"]) for _, attrs in parsed.tags if "data-component" in attrs]
    assert sorted(components) == ["AttentionHeads"] * 3 + ["ColoredTokens"] * 2 + ["Compare"]


def test_missing_parts_are_named_and_nothing_fails(tmp_path: Path) -> None:
    path = write_run(tmp_path / "begun")
    for name in (
        "summary.json",
        "visuals.json",
        "visuals.safetensors",
        "vectors.safetensors",
        "environment.json",
        "records.jsonl",
    ):
        (path / name).unlink()
    shown = " ".join(parse(family_report(path).read_text()).shown)
    for wanted in (
        "Unfinished run: 0 vectors so far",
        "no summary yet",
        "command line was not recorded",
        "No completions were recorded",
        "no vectors with this match",
        "No vectors are stored",
        "no averages",
        "no attention or token values",
    ):
        assert wanted in shown, wanted


def test_run_of_one_match_with_a_torn_line_and_a_lost_array(tmp_path: Path) -> None:
    path = write_run(tmp_path / "one", sizes={"kl": 5})
    rows = [row for row in records(sizes={"kl": 5}) if row["kind"] in ("vector", "unsteered")]
    (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "vec')
    listing = json.loads((path / "visuals.json").read_text())
    listing["items"] += [
        {"title": "gone", "kind": "attention", "key": "gone"},
        {"title": "odd", "kind": "pie", "key": "presence_base"},
    ]
    (path / "visuals.json").write_text(json.dumps(listing))
    found = parse(family_report(path).read_text())
    shown = " ".join(found.shown)
    assert "array 'gone' is not in visuals.safetensors" in shown and "got kind 'pie'" in shown
    assert "recorded no vectors with this match" in shown and "recorded no held-out prompts" in shown
    assert len([1 for _, attrs in found.tags if attrs.get("class") == "panel"]) == 6


def test_single_visual_is_a_whole_page_in_a_frame() -> None:
    frame = parse(pages.token_values(["<div>", "b"], torch.tensor([1.0, -1.0]), title="t")._repr_html_())
    ((tag, attrs),) = frame.tags
    inside = parse(attrs["srcdoc"] or "")
    assert tag == "iframe" and [a["data-component"] for _, a in inside.tags if "data-component" in a] == [
        "ColoredTokens"
    ]
    assert "nav" not in {tag for tag, _ in inside.tags}


def test_page_without_visuals_leaves_the_bundle_out() -> None:
    html = pages.page("t", [pages.Section("A <i>", Markup("<p>x</p>"), anchor="a")], headline="h")
    assert len(html) < 80_000 and "A &lt;i&gt;" in html


# --- in notebooks


SHOWN = {
    "attention": lambda: pages.attention(["<b>", "b"], torch.eye(2)[None], title="</iframe><b>t"),
    "heads": lambda: pages.attention(["<b>"] * 70, torch.rand(9, 70, 70)),
    "values": lambda: pages.token_values(["<b>", "b"], torch.tensor([1.0, -1.0])),
    "compare": lambda: pages.compare(["<b>", "b"], {"x": torch.eye(2)[None], "y": torch.ones(1, 2, 2) / 2}),
    "logits": lambda: pages.logits(["<b>", "b"], torch.randn(2, 7), lambda t: f"<i>{t}", ids=[0, 3]),
}


@pytest.mark.parametrize("name", SHOWN)
def test_notebooks_get_a_frame_that_reaches_nothing(name: str) -> None:
    bundle = SHOWN[name]()._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and len(bundle["text/plain"]) < 60
    ((tag, attrs),) = parse(bundle["text/html"]).tags
    # without allow-same-origin the frame cannot touch the notebook around it
    assert tag == "iframe" and attrs["sandbox"] == "allow-scripts" and "src" not in attrs
    inside = parse(attrs["srcdoc"] or "")
    policy = next(a["content"] for _, a in inside.tags if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = {digest(content) for kind, content in inside.scripts if kind is None}
    assert all(one in policy for one in scripts)
    assert not {"b", "i"} & {tag for tag, _ in inside.tags}
    assert len(bundle["text/html"]) < 200_000 or name in ("attention", "values")  # those two bring CircuitsVis
    height = re.search(r"height:(\d+)px", attrs["style"] or "")
    assert height and 60 <= int(height[1]) <= 1000  # the browser tests compare it with what the frame shows


def test_logits_name_the_most_probable_tokens() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    props = pages.logits(["a", "b"], logits, "xyz".__getitem__, ids=[0, 2], k=2).props
    shares = logits.softmax(-1)
    top: Any = props["top"]
    assert [[word for word, _ in row] for row in top] == [["y", "z"], ["x", "y"]]
    assert top[0][0][1] == pytest.approx(shares[0, 1].item(), abs=1e-4)
    own: Any = props["own"]
    assert own[0] is None and own[1] == pytest.approx(shares[0, 2].item(), abs=1e-4)  # token 2 after the first place
    assert pages.logits(["a"], logits[:1], str, k=9).props["own"] is None
    mistakes: list[dict[str, Any]] = [{"ids": [1]}, {"k": 0}]
    for wrong in mistakes:
        with pytest.raises(ValueError, match="expected one row of logits"):
            pages.logits(["a", "b"], logits, str, **wrong)
    with pytest.raises(ValueError, match="logits of 2 places"):
        pages.logits(["a"], logits, str)
