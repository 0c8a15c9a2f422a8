"""The report of a refusal study: candidates with their reasons, effects, the circle, tokens and heads."""

from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from mi_ortho.files import read_json
from mi_ortho.runs import Run, open_run
from mi_ortho.viz.data_table import table
from mi_ortho.viz.embed import attention, token_values
from mi_ortho.viz.matrices import heat_map
from mi_ortho.viz.pages import Section
from mi_ortho.viz.plots import Panel, Series, curve
from mi_ortho.viz.sections import Card, completions, curves, figure, glossary, note, table_section, write_report

Rows = list[dict[str, Any]]


def refusal_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory of `refusal`, finished or not; parts without records are left out."""
    run = open_run(run_dir)
    rows: Rows = run.records()
    parts = (_candidates(rows), _layers(rows), _conditions(rows), _side_by_side(rows), _circle(rows), _several(rows),
             _rankings(rows), _inside(run), _terms())  # fmt: skip
    return write_report(run_dir, "Refusal direction", [part for part in parts if part is not None])


def _pick(rows: Rows, kind: str) -> Rows:
    return [row for row in rows if row.get("kind") == kind]


def _candidates(rows: Rows) -> Section | None:
    found, extraction = _pick(rows, "candidate"), _pick(rows, "extraction")
    if not found or not extraction:
        return None
    sites, positions = extraction[-1]["sites"], extraction[-1]["positions"]
    cells = {(row["site"], row["position"]): row for row in found}
    drawn = Markup("")
    for key, caption in (
        ("bypass", "Refusal score of harmful prompts with the candidate ablated: lower is better."),
        ("reasons", "Why a candidate is rejected: the number of reasons, 0 for an admissible one."),
    ):
        values = [[_cell(cells.get((site, position)), key) for position in positions] for site in sites]
        matrix = torch.tensor(values)
        largest = max(float(matrix.abs().max()), 1e-6)
        names = [f"{p} {token!r}" for p, token in zip(positions, extraction[-1]["position_tokens"])]
        drawn += figure(heat_map(matrix, title=caption, scales=(("linear", -largest, largest),), captions=(caption,),
                                 row_names=tuple(sites), column_names=tuple(names)), caption)  # fmt: skip
    columns = {"site": "Read at", "position": "Position", "norm": "Norm", "bypass": "Bypass", "induce": "Induce",
               "kl": "KL", "rejected": "Rejected for"}  # fmt: skip
    reason = _pick(rows, "selection")
    lead = f"Selection: {reason[-1]['reason']}." if reason else "Selection has not ended."
    return Section("Candidates", drawn + table(found, columns, name="candidates"), lead, "candidates")


def _cell(row: dict[str, Any] | None, key: str) -> float:
    if row is None:
        return 0.0
    return float(len(row["rejected"])) if key == "reasons" else float(row[key] or 0.0)


def _layers(rows: Rows) -> Section | None:
    found = _pick(rows, "candidate")
    if not found:
        return None
    last = [row for row in found if row["position"] == max(one["position"] for one in found)]
    panels = []
    for letter, (key, label) in zip("abc", (("bypass", "Bypass"), ("induce", "Induce"), ("kl", "KL"))):
        series = [Series(stream, [row["layer"] for row in last if row["stream"] == stream],
                         [row[key] for row in last if row["stream"] == stream], style=f"c{k}", key=f"stream{k}")
                  for k, stream in enumerate(dict.fromkeys(row["stream"] for row in last))]  # fmt: skip
        panels.append(curve(Panel(label, "nats", "layer", letter=letter, group="layers"), series))
    return Section("By layer", curves(panels, "Directions of the last prompt position, by layer."), "", "layers")


def _conditions(rows: Rows) -> Section | None:
    found = _pick(rows, "condition")
    columns = {
        "prompts": "Prompts",
        "condition": "Condition",
        "refused": "Refused",
        "success": "Answered coherently",
        "coherent": "Coherent",
        "staged": "Refused, then answered",
        "kl": "KL on harmless",
        "cross_entropy": "Cross-entropy",
        "cross_entropy_before": "before",
        "accuracy": "Behaviours kept",
        "n": "n",
    }
    lead = (
        "Shares of test prompts, with coherence and damage beside them; random directions are controls."
    )
    return (
        table_section("What the direction does", found, columns, lead=lead, anchor="effect", name="conditions")
        if found
        else None
    )


def _side_by_side(rows: Rows) -> Section | None:
    found = [row for row in _pick(rows, "completion") if row["index"] == 0]
    if not found:
        return None
    body = Markup("")
    for kind in ("harmful", "harmless"):
        chosen = [row for row in found if row["prompts"] == kind and (not row["control"] or " 0 " in row["condition"])]
        cards = [Card(row["condition"], row["text"], row["mode"], "") for row in chosen]
        if cards:
            body += completions(cards, prompt=chosen[0]["prompt"])
    columns = {"prompts": "Prompts", "condition": "Condition", "prompt": "Prompt", "stage": "Stage",
               "coherent": "Coherent",
               "rest": "Perplexity", "repetition": "Repetition", "text": "Completion"}  # fmt: skip
    body += table(_pick(rows, "completion"), columns, name="completions", chips=("stage",))
    return Section(
        "Completions", body, "One prompt of each class under every condition, then all.", "completions"
    )


def _circle(rows: Rows) -> Section | None:
    found = _pick(rows, "circle")
    panels = []
    for letter, kind in zip("ab", ("harmful", "harmless")):
        series = []
        for k, (plane, adaptive) in enumerate((("plane", False), ("plane", True), ("random axis", False))):
            wanted = (plane, adaptive, kind)
            part = [row for row in found if (row["plane"], row["adaptive"], row["prompts"]) == wanted]
            part.sort(key=lambda row: row["degrees"])
            name = f"{plane}{', adaptive' if adaptive else ''}"
            for measure, style in (("refused", f"c{k}"), ("coherent", f"c{k + 3}")):
                series.append(Series(f"{measure}: {name}", [row["degrees"] for row in part],
                                     [row[measure] for row in part], style=style, key=f"{measure}{k}"))  # fmt: skip
        panels.append(
            curve(Panel(f"{kind} prompts", "share", "angle in degrees", letter=letter, group="circle"), series)
        )
    caption = "0 degrees points along the direction, 180 against it; the part in the plane keeps its length."
    return Section("Steering circle", curves(panels, caption), "", "circle", "Circle") if found else None


def _several(rows: Rows) -> Section | None:
    rounds, probes, cones = (_pick(rows, kind) for kind in ("round", "probe", "cone"))
    if not rounds and not probes and not cones:
        return None
    body = table(rounds, {"number": "Round", "site": "Read at", "position": "Position", "norm": "Norm",
                          "cosine_before": "Cosine before", "refusal": "Refusal, all ablated",
                          "alone": "Refusal, this one",
                          "random": "Refusal, as many random"}, name="rounds") if rounds else Markup("")  # fmt: skip
    if probes:
        body += table(probes, {"number": "Probe", "auc": "AUC", "refusal": "Refusal, all ablated"}, name="probes")
    if cones:
        body += table(cones, {"dimension": "Dimension", "scores": "Refusal by direction",
                              "selected": "Refusal, selected",
                              "cosines": "Cosine with the selected"}, name="cones")  # fmt: skip
    lead = "Refusal scores of harmful validation prompts, nats. Later rounds are orthogonal to earlier ones."
    return Section("More than one direction", body, lead, "several", "Several")


def _rankings(rows: Rows) -> Section | None:
    found = _pick(rows, "ranking")
    columns = {
        "name": "Score",
        "spearman": "Spearman, admissible",
        "spearman_all": "Spearman, all",
        "top": "Its choice",
        "regret": "Regret",
        "random_regret": "Regret of a random one",
        "first_is_admissible": "First is admissible",
    }
    return table_section("Cheaper rankings", found, columns, lead="Against the selection by bypass score.",
                         anchor="rankings",
                         short="Rankings", name="rankings") if found else None  # fmt: skip


def _inside(run: Run) -> Section | None:
    path = run.path / "inside.json"
    if not path.is_file() or not run.has("inside"):
        return Section("Inside", note("Nothing of the model's inside was recorded."))
    listing, arrays = read_json(path), run.load_tensors("inside")
    assert isinstance(listing, dict)
    body = Markup("")
    for item in listing["items"]:
        values, tokens = arrays[item["key"]], item["tokens"]
        visual = (token_values(tokens, values, title=item["title"]) if item["kind"] == "token_values"
                  else attention(tokens, values, title=item["title"], head_names=item["names"]))  # fmt: skip
        body += figure(Markup("{}").format(visual), item["title"])
    gap = arrays["heads_harmful"] - arrays["heads_harmless"]
    largest = max(float(gap.abs().max()), 1e-6)
    caption = "What each head writes along the direction at the last position: harmful minus harmless prompts."
    body += figure(heat_map(gap, title=caption, scales=(("linear", -largest, largest),), captions=(caption,),
                            row_names=tuple(f"layer {k}" for k in range(gap.shape[0])),
                            column_names=tuple(f"head {k}" for k in range(gap.shape[1]))), caption)  # fmt: skip
    return Section("Inside", body, "Tokens by projection on the direction, and the heads that write it.", "inside")


def _terms() -> Section:
    return glossary([
        ("Bypass", "mean refusal score of harmful prompts with the direction ablated everywhere"),
        ("Induce", "mean refusal score of harmless prompts with the difference of means added where it was read"),
        ("Refusal score", "log P(R) - log(1 - P(R)), R the first tokens of refusals, in nats"),
        ("Coherent", "perplexity under the unsteered model at most 20 after the first four tokens, and at most half "
         "of the "
                     "token triples repeated")])  # fmt: skip
