"""The parts of a `presence` report that show text: coloured passages, the strongest of each vector, all passages."""

from collections.abc import Sequence

import torch
from markupsafe import Markup

from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.coloured import coloured
from mi_ortho.pages.embed import token_values
from mi_ortho.pages.page import Section
from mi_ortho.pages.sections import glossary, note, table_section
from mi_ortho.pages.text import number, visible
from mi_ortho.probes import false_discoveries
from mi_ortho.runs.rows import Record, pick
from mi_ortho.studies.presence.contrasts import PRIMARY
from mi_ortho.studies.presence.passages import GROUPS

_VECTORS, _OPEN = 150, 6  # vectors whose strongest passages are on the page, and of these shown without a click
_COLUMNS = {
    "index": "vector",
    "what": "kind",
    "auc": "AUC, same topics",
    "q": "q, covariance sets",
    "p_labels": "p, shuffled labels",
    "prose": "AUC, other prose",
    "real": "AUC, library",
    "cosine": "cos with d",
    "share": "mean share, code",
    "english": "mean share, English",
    "largest": "largest share, code",
    "where": "strongest in",
}
_TEXTS = {
    "group": "group",
    "title": "prompt or source",
    "mode": "mode",
    "kept": "read",
    "tokens": "tokens",
    "text": "text",
}
_TOKENS = (
    "Choose a passage. Presence is cos(h, θ): blue where the activation points along the vector, orange where "
    "against it, white at zero; hover a token for its value. The first row is the share of |h|² in the span of "
    "the whole family. Drawn with CircuitsVis."
)
_ALL = (
    "AUC over all tokens; q-values by Benjamini and Hochberg over these rows. Kept: shows the base's behaviour; "
    "lost: found by the search, but does not. Click a heading to sort."
)


def token_by_token(rows: Sequence[Record]) -> Section:
    """Whole passages of every group, one choice each."""
    buttons, choices = [], []
    for k, row in enumerate(pick(rows, kind="tokens")):
        title = visible(f"{GROUPS[row['group']]}: {row['title']}")
        visual = token_values(row["tokens"], torch.tensor(row["values"]), row["labels"], title=title)
        button = Markup('<button type="button" aria-pressed="{}">{}</button> ')
        buttons.append(button.format("false" if k else "true", f"{row['group'].replace('_', ' ')} {k % 2 + 1}"))
        choice = Markup('<div class="choice"{}><p class="caption">{}</p>{}</div>')
        choices.append(choice.format(Markup(" hidden") if k else "", title, visual))
    frame = Markup('<figure class="inside tabs"><p class="choices">{}</p>{}<figcaption>{}</figcaption></figure>')
    body = frame.format(Markup("").join(buttons), Markup("").join(choices), _TOKENS)
    return Section("Token by token", body, "The same vectors on text of every kind.", "tokens", "Tokens")


def strongest_passages(rows: Sequence[Record], source: int) -> Section:
    """For every vector, the places where it is most present in all text read."""
    places: dict[int, list[Record]] = {}
    for row in sorted(_strongest(rows), key=lambda row: (row["index"], row["rank"])):
        places.setdefault(row["index"], []).append(row)
    measures = {row["index"]: row for row in pick(rows, kind="presence", layer=source)}
    order = sorted(places, key=lambda index: (measures[index]["what"] != "base", -measures[index][f"auc_{PRIMARY}"]))
    blocks = [_block(measures[index], places[index], k < _OPEN) for k, index in enumerate(order[:_VECTORS])]
    if len(blocks) > _OPEN:
        rest = Markup('<details><summary>The other {} vectors</summary><div class="many">{}</div></details>')
        blocks = [*blocks[:_OPEN], rest.format(len(blocks) - _OPEN, Markup("").join(blocks[_OPEN:]))]
    if len(order) > _VECTORS:
        blocks.append(note(f"{len(order) - _VECTORS} more vectors are in records.jsonl."))
    tops = [places[index][0]["group"] for index in places if measures[index]["what"] == "kept"]
    totals = ", ".join(f"{tops.count(group)} in {label}" for group, label in GROUPS.items() if tops.count(group))
    lead = (
        f"Of all text read, where is each vector most present? Of the family's {len(tops)} vectors, {totals}. The "
        "base comes first, then the others by AUC; the underlined token is the strongest."
    )
    return Section("Strongest passages of every vector", Markup("").join(blocks), lead, "strongest", "Passages")


def _strongest(rows: Sequence[Record]) -> list[Record]:
    """The rows of the strongest places, each once: a resumed run may have recorded one twice."""
    return list({(row["index"], row["rank"]): row for row in rows if row["kind"] == "strongest"}.values())


def _block(vector: Record, moments: Sequence[Record], is_open: bool) -> Markup:
    largest = max(abs(value) for row in moments for value in row["values"])
    line = Markup('<p class="caption">{} · cos {} · {}</p>{}')
    lines = [
        line.format(
            GROUPS[row["group"]],
            number(row["value"]),
            visible(row["title"]),
            coloured(row["tokens"], row["values"], largest=largest, place=row["place"]),
        )
        for row in moments
    ]
    name = "Base vector" if vector["what"] == "base" else f"Vector {vector['index']} ({vector['what']})"
    frame = Markup("<details{}><summary>{} · AUC {} · {}</summary>{}</details>")
    return frame.format(
        Markup(" open") if is_open else "",
        name,
        number(vector[f"auc_{PRIMARY}"]),
        GROUPS[moments[0]["group"]],
        Markup("").join(lines),
    )


def vectors_table(rows: Sequence[Record], source: int) -> Section:
    """Every vector with its measures at the family's source layer."""
    first = {row["index"]: str(row["group"]) for row in _strongest(rows) if row["rank"] == 0}
    vectors = pick(rows, kind="presence", layer=source)
    p_values = torch.tensor([float(row[f"p_covariance_{PRIMARY}"]) for row in vectors], dtype=torch.float64)
    table = [
        {
            "index": row["index"],
            "what": row["what"],
            "auc": row[f"auc_{PRIMARY}"],
            "q": q,
            "p_labels": row[f"p_labels_{PRIMARY}"],
            "prose": row["auc_own_prose"],
            "real": row["auc_real_matched"],
            "cosine": row[f"cosine_{PRIMARY}"],
            "share": row["share_code_own"],
            "english": row["share_english_own"],
            "largest": row["largest_share_code_own"],
            "where": GROUPS.get(first.get(row["index"], ""), ""),
        }
        for row, q in zip(vectors, false_discoveries(p_values).tolist())
    ]
    return table_section(
        "All vectors",
        table,
        _COLUMNS,
        lead=f"Layer {source}. {_ALL}",
        anchor="table",
        short="Table",
        name="presence",
        chips=("what",),
    )


def passages_table(rows: Sequence[Record]) -> Section:
    """Every passage, with those that were left out."""
    passages = pick(rows, kind="passage")
    table = [{**row, "group": GROUPS[row["group"]], "tokens": len(row["ids"])} for row in passages]
    read = sum(len(row["ids"]) for row in passages if row["kept"])
    unread = sum(not row["kept"] for row in passages)
    lead = (
        f"{len(passages)} passages, {read:,} tokens. {unread} were left out because the model did not write what it "
        "was asked for, or the text is too short."
    )
    return table_section(
        "What was read", table, _TEXTS, lead=lead, anchor="texts", short="Texts", name="passages", chips=("group",)
    )


def terms() -> Section:
    """What the words of this report mean."""
    return glossary(
        [
            ("presence", "cos(h, θ): how far the activation points along the vector. Its square is the share of |h|²."),
            ("AUC", "The chance that a token of the first text has more presence than one of the second; 1/2 is none."),
            (CONTROLS["isotropic"].label, "As many orthonormal vectors, uniformly random in the whole space."),
            (CONTROLS["covariance"].label, "Draws with these activations' covariance, made orthonormal one by one."),
            (CONTROLS["rotated"].label, "A random rotation inside the components that hold most of the variance."),
            (
                CONTROLS["shuffled_labels"].label,
                "Whole passages change sides, never single tokens; with matched topics, within a topic.",
            ),
            (
                "q-value",
                "A p-value corrected so that of all vectors at most q, a share of at most q is false on average.",
            ),
            (
                "d",
                "Mean activation on code minus mean activation on English. An orthogonal family has Σcos²(θ, d) ≤ 1.",
            ),
        ]
    )
