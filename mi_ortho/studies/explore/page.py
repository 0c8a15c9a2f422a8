"""The explorer of a family: one page to choose a vector and see what it does, all data inside, no server."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.pages.data_table import text_limit
from mi_ortho.pages.page import Section, page, render, write_page
from mi_ortho.pages.plots import Panel, Series, curve, finite, wide
from mi_ortho.pages.sections import note, sinks_line
from mi_ortho.pages.text import clip, json_script, number, visible
from mi_ortho.runs.directory import RunError, open_run
from mi_ortho.runs.rows import Record
from mi_ortho.studies.family.finished import MATCH_TITLES
from mi_ortho.studies.family.page_records import FamilyRun, load_family

_PICTURES = 900_000  # bytes of attention on the page, before base64
_TEXTS = 500_000  # characters of completions on the page
_TOKEN = 40
_PARTS = (
    ("texts", "Texts"),
    ("curves", "Norm"),
    ("tokens", "Presence"),
    ("attention", "Attention"),
    ("nearest", "Nearest tokens"),
)
_NUMBERS = ("norm", "norm_shrunk", "loss", "kl_base_vector", "kl_vector_base", "log_odds", "transfer", "status")
_PANELS = (
    ("norm", "Norm", "‖θₖ‖"),
    ("kl_base_vector", "KL(base ‖ vector)", "nats"),
    ("kl_vector_base", "KL(vector ‖ base)", "nats"),
)


def explore_report(run_dir: Path) -> Path:
    """Write `report.html` into the `explore` folder of a family run, finished or not, and return its path.

    Raises:
        RunError: the folder does not lie in a family's run directory, or nothing was measured yet.
    """
    path = Path(run_dir)
    return write_page(path / "report.html", explorer_page(path))


def explorer_page(path: Path) -> Markup:
    """The page as text, from the rows of the folder and of the family run around it."""
    run = open_run(path)
    rows: list[Record] = list(run.records())
    frame = next((row for row in rows if row["kind"] == "frame"), None)
    vectors = [row for row in rows if row["kind"] == "vector"]
    if frame is None or not vectors or not (path.resolve().parent / "config.json").is_file():
        raise RunError(
            f"got {path}; expected the folder `explore` of a family's run directory, with vectors measured; "
            "run `mi-ortho explore RUN`"
        )
    family = load_family(path.resolve().parent)
    arrays = {"frame": run.load_tensors("frame"), "drawn": run.load_rows("drawn")}
    data, omissions = explorer_data(family, frame, vectors, arrays)
    panels = Markup("").join(_panels(family, match) for match in family.matches)
    matches = [match for match in data["groups"] if match != "base"]
    values = {
        "data": json_script(data),
        "matches": ["base", *matches],
        "first": matches[0] if matches else "base",
        "labels": {"base": "the base vector", **MATCH_TITLES},
        "panels": panels,
        "frame": frame,
        "left_out": omissions,
        "sinks": sinks_line(family.rows),
        "natural": frame.get("natural") is not None,
        "chance": number(float(frame["d_model"]) ** -0.5, 2),
        "null": frame.get("null_cosine"),
    }
    body = render("explorer.html.jinja", **values)
    title = f"Explorer · {visible(family.config.get('model') or 'the embedded model')}"
    total = sum(len(family.family(match)) for match in family.matches)
    headline = (
        f"{len(vectors) - ('base' in data['groups'])} of {total} orthogonal vectors and their base, one at a time"
    )
    sections = [Section("", body), _reading(frame)]
    return page(title, sections, headline=headline, kicker=title, links=_PARTS)


def explorer_data(
    family: FamilyRun, frame: Record, records: Sequence[Record], arrays: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Any], list[str]]:
    """The data of the page's script, and what was left out of it to keep the page small."""
    words = _Words()
    vectors = [_vector(family, row, words) for row in records]
    _cut(vectors)
    pictures, omissions = _attention(records, arrays, vectors)
    natural = _natural(frame, records, arrays, vectors, words)
    largest = max([1e-6, *(abs(value) for row in records for value in row.get("presence") or [])])
    for one, row in zip(vectors, records):
        one["presence"] = packed(torch.tensor(row.get("presence") or []), largest)
        change = torch.tensor(row["attention_change"])
        one["change"] = packed(change, 1.0)
    rows, columns = torch.tensor(records[0]["attention_change"]).shape
    if frame.get("left_out"):
        omissions.append(f"attention of the first {frame['left_out']} tokens of the prompt")
    data = {
        "groups": {
            match: [row["index"] for row in records if row["match"] == match]
            for match in dict.fromkeys(row["match"] for row in records)
        },
        "vectors": vectors,
        "words": words.texts,
        "modes": family.colours,
        "presence": largest,
        "prompt": [safe_word(word) for word in frame["pieces"]],
        "layer": frame["layer"],
        "layers": rows,
        "heads": columns,
        "natural": natural,
        "pictures": pictures,
        "null": frame.get("null_cosine"),
        "base": clip(visible(family.base.get("text") or ""), 4000),
        "unsteered": clip(visible(family.unsteered.get("text") or ""), 4000),
    }
    return data, omissions


class _Words:
    """A table of tokens, each once; calling it with a token gives its number."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.places: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        text = safe_word(word)
        if text not in self.places:
            self.places[text] = len(self.texts)
            self.texts.append(text)
        return self.places[text]


def safe_word(word: object) -> str:
    """A token as the page shows it: control characters visible, cut if long."""
    return clip(visible(word), _TOKEN)


def _vector(family: FamilyRun, row: Record, words: _Words) -> dict[str, Any]:
    """The data of one vector: measures of the family run and its tokens."""
    match, index = str(row["match"]), int(row["index"])
    measures = (
        family.base if match == "base" else next((one for one in family.family(match) if one["index"] == index), {})
    )
    elsewhere = [one for one in family.where(kind="transfer", match=match) if one["index"] == index]
    near = {
        key: [[safe_word(word), value] for word, value in row[key]] if row.get(key) else None
        for key in ("nearest", "farthest")
    }
    return {
        "match": match,
        "index": index,
        "mode": measures.get("mode"),
        "text": visible(measures.get("text") or ""),
        "numbers": {key: measures.get(key) for key in _NUMBERS if measures.get(key) is not None},
        "elsewhere": [
            [visible(one.get("prompt_text")), one.get("mode"), visible(one.get("text") or "")] for one in elsewhere
        ],
        "tokens": [words(word) for word in row.get("pieces") or []],
        "start": row.get("start"),
        **near,
    }


def _cut(vectors: Sequence[dict[str, Any]]) -> None:
    """Shorten completions so that together they have at most `_TEXTS` characters."""
    texts = [one["text"] for one in vectors] + [text for one in vectors for _, _, text in one["elsewhere"]]
    limit = text_limit(texts, _TEXTS)
    for one in vectors:
        one["text"] = clip(one["text"], limit)
        one["elsewhere"] = [[clip(prompt, 200), mode, clip(text, limit)] for prompt, mode, text in one["elsewhere"]]


def _attention(
    records: Sequence[Record], arrays: Mapping[str, Mapping[str, Tensor]], vectors: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any] | None, list[str]]:
    """Unsteered attention and each vector's change of it, for the heads that change most, as many as fit the page.

    The second value says what was left out.
    """
    plain = arrays["frame"]["attention"].float()
    size = plain.shape[-1]
    room = max(1, _PICTURES // (len(records) * size * (size + 1) // 2))
    changes = [arrays["drawn"].get(str(row["match"])) for row in records]
    if any(change is None for change in changes):
        return None, ["attention, whose shards are missing"]
    places = _places(records)
    stack = torch.stack([change[place].float() for change, place in zip(changes, places) if change is not None])
    heads = stack.abs().sum((0, 2, 3)).argsort(descending=True)[:room].sort().values.tolist()
    largest = max(1e-6, float(stack.abs().max()))
    lower = torch.tril_indices(size, size)
    for one, change in zip(vectors, stack):
        one["attention"] = packed(change[heads][:, lower[0], lower[1]], largest)
    omissions = [f"attention of {len(plain) - len(heads)} of {len(plain)} heads; shown are those that change most"]
    pictures = {"heads": heads, "largest": largest, "plain": packed(plain[heads][:, lower[0], lower[1]], 1.0)}
    return pictures, omissions * (len(heads) < len(plain))


def _places(records: Sequence[Record]) -> list[int]:
    """The position of each row's shard in the stack of its match, which is sorted by index."""
    order = {
        match: sorted(row["index"] for row in records if row["match"] == match)
        for match in {row["match"] for row in records}
    }
    return [order[row["match"]].index(row["index"]) for row in records]


def _natural(
    frame: Record,
    records: Sequence[Record],
    arrays: Mapping[str, Mapping[str, Tensor]],
    vectors: Sequence[dict[str, Any]],
    words: _Words,
) -> dict[str, Any] | None:
    """The text that shows the behaviour without steering; adds every vector's presence on it to `vectors`."""
    values = arrays["frame"].get("natural")
    if values is None or frame.get("natural") is None:
        return None
    column = {tuple(name): k for k, name in enumerate(frame["vectors"])}
    largest = max(1e-6, float(values.abs().max()))
    for one, row in zip(vectors, records):
        one["natural"] = packed(values[:, column[row["match"], row["index"]]], largest)
    return {"tokens": [words(word) for word in frame["natural"]], "start": frame["natural_start"], "largest": largest}


def packed(values: Float[Tensor, "..."], largest: float) -> str:
    """Values as one byte each, base64: 127 is zero, 0 and 254 are ∓ `largest`.

    >>> list(base64.b64decode(packed(torch.tensor([-2.0, 0.0, 1.0]), 2.0)))
    [0, 127, 190]
    """
    steps = ((values.float() / largest).clamp(-1, 1).nan_to_num(0.0) * 127 + 127).round()
    return base64.b64encode(steps.to(torch.uint8).contiguous().numpy().tobytes()).decode()


def _panels(family: FamilyRun, match: str) -> Markup:
    """Norm and divergences of one match over the index; the explorer moves their cursor."""
    rows = family.family(match)
    colours = [family.colours.get(str(row.get("mode")), "m7") for row in rows]
    panels = []
    for key, title, unit in _PANELS:
        values = [row.get(key) for row in rows]
        if finite(values):
            series = [Series("family", [row["index"] for row in rows], values, "family", "family", colours)]
            random = family.control(match, "isotropic")
            if key != "norm" and random:
                points = [row["index"] for row in random], [row.get(key) for row in random]
                chance = family.shown("isotropic")
                series.insert(0, Series(chance.label, *points, chance.colour, "isotropic", dots=True))
            panels.append(curve(Panel(title, unit, group=match, log=key != "norm" and wide(series)), series))
    return Markup('<div class="panels" data-match="{}">{}</div>').format(match, Markup("").join(panels))


def _reading(frame: Record) -> Section:
    text = (
        "Presence is cos(h, θ): the cosine of the vector with the residual stream at its own site, at every token, "
        "read without steering. A completion is the recorded one, tokenised again. Attention is read on the shown "
        f"prompt alone; pictures are of layer {frame['layer']}. The nearest tokens are those whose row of the "
        "unembedding, gains of the last norm included and the mean over tokens taken out, has the largest cosine with "
        "the vector. The model does not read vectors of an early layer this way, so they say what the vector looks "
        "like, not what it does. Numbers come from records.jsonl here and in the folder above. The page loads nothing "
        "from a network."
    )
    return Section("How to read this", note(text), "", "reading", "Glossary")
