"""The report of a refusal study: candidates with their reasons, effects, the circle, tokens and heads."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from mi_ortho.nulls.chance import CONTROLS
from mi_ortho.pages.data_table import table
from mi_ortho.pages.estimates import Estimate, estimates
from mi_ortho.pages.page import Section
from mi_ortho.pages.plots import Panel, Series, curve
from mi_ortho.pages.sections import Card, completions, curves, glossary, left_out_section, table_section, write_report
from mi_ortho.pages.text import number
from mi_ortho.pages.wheel import Lap, wheel
from mi_ortho.runs.directory import open_run
from mi_ortho.runs.rows import Record, pick
from mi_ortho.studies.refusal.page_inside import inside_section
from mi_ortho.studies.refusal.page_places import candidate_section, layer_section, matrix_section

Rows = Sequence[Record]
ARCS = (  # plane, adaptive, colour
    ("plane", False, "c0"),
    ("plane", True, "c4"),
    ("random axis", False, CONTROLS["random"].colour),
)
TERMS = [
    ("direction", "Difference of the mean activations on harmful and harmless prompts at one layer and position."),
    ("ablated", "The part along the direction is removed from every block input, attention output and MLP output."),
    ("added", "The difference of means is added at every position of the place it was read from."),
    ("refusal score", "log P(R) - log(1 - P(R)) in nats, R the first tokens of refusals."),
    ("bypass, induce", "Refusal score of harmful prompts with the direction ablated; of harmless ones with it added."),
    (
        "answered coherently",
        "The answer counts as help by the model's own rules (else: twelve words), no refusal in "
        "it, and it is coherent.",
    ),
    (
        "coherent",
        "Perplexity under the unsteered model at most 20 after the first four tokens, and at most half of the "
        "token triples repeated.",
    ),
    ("KL on harmless", "KL(unsteered || steered) per token over the unsteered model's own harmless answers."),
]


_HEADING = Markup('<h3 class="narrow">{}</h3>')


def refusal_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory of `refusal`, finished or not; parts without records are left out."""
    run = open_run(run_dir)
    rows: Rows = run.records()
    parts = (
        _conditions(rows),
        _side_by_side(rows),
        candidate_section(rows),
        layer_section(rows),
        matrix_section(rows),
        _circle(rows),
        _several(rows),
        _rankings(rows),
        inside_section(run),
        left_out_section(rows),
        glossary(TERMS),
    )
    return write_report(run_dir, "Refusal direction", [part for part in parts if part is not None])


def _conditions(rows: Rows) -> Section | None:
    conditions = pick(rows, kind="condition")
    if not conditions:
        return None
    columns = {
        "prompts": "Prompts",
        "condition": "Condition",
        "refused": "Refused",
        "success": "Answered coherently",
        "coherent": "Coherent",
        "staged": "Refused, then answered",
        "phrase_first": "Phrase in first sentence",
        "kl": "KL on harmless",
        "cross_entropy": "Cross-entropy",
        "cross_entropy_before": "before",
        "accuracy": "Behaviours kept",
        "n": "n",
    }
    body = Markup("")
    for kind in ("harmful", "harmless"):
        part = [row for row in conditions if row["prompts"] == kind]
        body += estimates(f"Refusal of {kind} prompts, with 95 % intervals", _estimates(part, "refused"))
        body += estimates(f"Coherence of what is written to {kind} prompts", _estimates(part, "coherent"))
    lead = "Shares of held-out test prompts. Rings are controls: random directions of equal norm."
    body = Markup('<div class="two">{}</div>').format(body) + table(conditions, columns, name="conditions")
    return Section("What the direction does", body, lead, "effect", "Effect")


def _estimates(rows: Rows, key: str) -> list[Estimate]:
    return [
        Estimate(
            str(row["condition"]),
            row[key],
            (row[f"{key}_interval"][0], row[f"{key}_interval"][1]),
            "control" if row["control"] else "value",
        )
        for row in rows
    ]


def _side_by_side(rows: Rows) -> Section | None:
    first_rows = [row for row in pick(rows, kind="completion") if row["index"] == 0]
    if not first_rows:
        return None
    body = Markup("")
    for kind in ("harmful", "harmless"):
        chosen = [
            row for row in first_rows if row["prompts"] == kind and (not row["control"] or " 0 " in row["condition"])
        ]
        cards = [Card(row["condition"], row["text"], row["mode"], _remark(row)) for row in chosen]
        if cards:
            body += _HEADING.format(f"A {kind} prompt") + completions(cards, prompt=chosen[0]["prompt"])
    columns = {
        "prompts": "Prompts",
        "condition": "Condition",
        "prompt": "Prompt",
        "stage": "Stage",
        "coherent": "Coherent",
        "rest": "Perplexity",
        "repetition": "Repetition",
        "text": "Completion",
    }
    body += _HEADING.format("All completions") + table(
        pick(rows, kind="completion"), columns, name="completions", chips=("stage",)
    )
    lead = "The first test prompt of each class under every condition, then all; the words that differ are marked."
    return Section("Completions", body, lead, "completions")


def _remark(row: Record) -> str:
    return f"{row['stage']}, {'' if row['coherent'] else 'not '}coherent (perplexity {number(row['rest'])})"


_CIRCLE = (
    "The angle in the plane is set to the value shown, whatever it was; the length of the part in the plane "
    "stays. 0 degrees points along the direction, 180 against it; the second axis is the first principal "
    "component of the directions of all layers, or a random one. Adaptive: only where the direction is "
    "present. Written at the input of every block; the published method writes at the outputs of the "
    "normalisations."
)


def _circle(rows: Rows) -> Section | None:
    turns = pick(rows, kind="circle")
    if not turns:
        return None
    wheels, panels = Markup(""), []
    for kind in ("harmful", "harmless"):
        arcs = {arc: _arc(turns, kind, arc) for arc in ARCS}
        for measure, title in (("refused", "refused"), ("coherent", "coherent")):
            laps = [
                Lap(_arc_name(arc), [row["degrees"] for row in part], [row[measure] for row in part], arc[2])
                for arc, part in arcs.items()
                if part
            ]
            wheels += wheel(f"{kind} prompts: share {title}", laps)
        for measure in ("refused", "success")[: 2 if kind == "harmful" else 1]:
            series = [
                Series(
                    _arc_name(arc),
                    [row["degrees"] for row in part],
                    [row[measure] for row in part],
                    arc[2],
                    key=f"arc{arc[2]}",
                )
                for arc, part in arcs.items()
                if part
            ]
            label = "refused" if measure == "refused" else "answered coherently"
            panels.append(
                curve(
                    Panel(f"{kind} prompts", label, "angle in degrees", letter="abcd"[len(panels)], group="circle"),
                    series,
                )
            )
    legend = [(f"arc{arc[2]}", _arc_name(arc), arc[2]) for arc in ARCS]
    body = Markup('<div class="wheels">{}</div>').format(wheels) + curves(panels, _CIRCLE, legend=legend)
    lead = f"{turns[0]['n']} prompts of each class; on the rim all, in the centre none."
    return Section("Steering circle", body, lead, "circle", "Circle")


def _arc(turns: Rows, kind: str, arc: tuple[str, bool, str]) -> list[Record]:
    part = {row["degrees"]: row for row in turns if (row["plane"], row["adaptive"], row["prompts"]) == (*arc[:2], kind)}
    return [part[degrees] for degrees in sorted(part)]


def _arc_name(arc: tuple[str, bool, str]) -> str:
    return {"plane": "plane of directions", "random axis": "random second axis"}[arc[0]] + ", adaptive" * arc[1]


_ROUNDS = {
    "number": "Round",
    "site": "Read at",
    "position": "Position",
    "norm": "Norm",
    "cosine_before": "Cosine with the unablated difference there",
    "refusal": "Refusal score, all ablated",
    "alone": "Refusal score, this one ablated",
    "random": "Refusal score, as many random",
}


def _several(rows: Rows) -> Section | None:
    rounds, probes, cones = (pick(rows, kind=kind) for kind in ("round", "probe", "cone"))
    if not rounds and not probes and not cones:
        return None
    body = Markup("")
    if rounds:
        body += _HEADING.format("Extracted again while all earlier directions are ablated")
        body += table(
            rounds,
            _ROUNDS,
            name="rounds",
        )
    if probes:
        body += _HEADING.format("Linear probes projected out one after the other (INLP)")
        body += table(
            probes,
            {"number": "Probe", "auc": "AUC on validation prompts", "refusal": "Refusal score, all ablated"},
            name="probes",
        )
    if cones:
        body += _HEADING.format("A cone of directions optimised by gradient (RDO)")
        body += table(
            cones,
            {
                "dimension": "Dimension",
                "scores": "Refusal score by direction",
                "selected": "Refusal score, selected direction",
                "cosines": "Cosine with the selected",
            },
            name="cones",
        )
    lead = "Mean refusal scores of harmful validation prompts in nats. Each round is orthogonal to the earlier ones."
    return Section("More than one direction", body, lead, "several", "Several")


def _rankings(rows: Rows) -> Section | None:
    rankings = [{**row, "name": str(row["name"]).replace("_", " ")} for row in pick(rows, kind="ranking")]
    columns = {
        "name": "Score",
        "spearman": "Spearman, admissible",
        "spearman_all": "Spearman, all",
        "top": "Its choice",
        "regret": "Regret",
        "random_regret": "Regret of a random one",
        "first_is_admissible": "First is admissible",
    }
    lead = "What would be chosen without running the model, against the selection by bypass score."
    return (
        table_section(
            "Cheaper rankings", rankings, columns, lead=lead, anchor="rankings", short="Rankings", name="rankings"
        )
        if rankings
        else None
    )
