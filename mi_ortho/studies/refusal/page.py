"""The report of a refusal study: candidates with their reasons, effects, the circle, tokens and heads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from mi_ortho.studies.refusal.words import Words, words_of

Rows = Sequence[Record]
ARCS = (  # plane, adaptive, colour
    ("plane", False, "c0"),
    ("plane", True, "c4"),
    ("random axis", False, CONTROLS["random"].colour),
)


def _terms(words: Words) -> list[tuple[str, str]]:
    first, second = words.first, words.second
    helps = "counts as help by the model's own rules (else: twelve words)" if words == Words() else "has twelve words"
    return [
        ("direction", f"Difference of the mean activations on {first} and {second} prompts at one layer and position."),
        ("ablated", "The part along the direction is removed from every block input, attention output and MLP output."),
        ("added", "The difference of means is added at every position of the place it was read from."),
        (f"{words.noun} score", f"log P(R) - log(1 - P(R)) in nats, R the first tokens of answers {words.shown}."),
        (
            "bypass, induce",
            f"That score on {first} prompts with the direction ablated; on {second} ones with it added.",
        ),
        (
            f"{words.otherwise} coherently",
            f"The answer {helps}, shows no {words.noun}, and is coherent.",
        ),
        (
            "coherent",
            "Perplexity under the unsteered model at most 20 after the first four tokens, and at most half of the "
            "token triples repeated.",
        ),
        (f"KL on {second}", "KL(unsteered || steered) per token over the unsteered model's own answers to them."),
    ]


_HEADING = Markup('<h3 class="narrow">{}</h3>')


def refusal_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory of `refusal`, finished or not; parts without records are left out."""
    run = open_run(run_dir)
    rows: Rows = run.records()
    words = words_of(rows)
    parts = (
        _refusals(rows),
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
        glossary(_terms(words)),
    )
    return write_report(run_dir, f"{words.noun.capitalize()} direction", [part for part in parts if part is not None])


def _refusals(rows: Rows) -> Section | None:
    answers = pick(rows, kind="harmful_answer")
    if not answers:
        return None
    columns = {"prompt": "Prompt", "refused": "Refused", "mode": "Behaviour", "text": "Completion"}
    lead = "Answers to harmful prompts without any change, greedy."
    body = table(answers, columns, name="refusals", chips=("mode",))
    return Section("Does it refuse?", body, lead, "refusals", "Refuses?")


def _conditions(rows: Rows) -> Section | None:
    words = words_of(rows)
    conditions = pick(rows, kind="condition")
    if not conditions:
        return None
    columns = {
        "prompts": "Prompts",
        "condition": "Condition",
        "refused": words.shown.capitalize(),
        "success": f"{words.otherwise.capitalize()} coherently",
        "coherent": "Coherent",
        **(
            {"staged": "Refused, then answered", "phrase_first": "Phrase in first sentence"} if words == Words() else {}
        ),
        "kl": f"KL on {words.second}",
        "cross_entropy": "Cross-entropy",
        "cross_entropy_before": "before",
        "accuracy": "Behaviours kept",
        "n": "n",
    }
    body = Markup("")
    for kind in ("harmful", "harmless"):
        part, name = [row for row in conditions if row["prompts"] == kind], words.of(kind)
        title = f"Share of {name} prompts {words.shown}, with 95 % intervals"
        body += estimates(title, _estimates(part, "refused"))
        body += estimates(f"Coherence of what is written to {name} prompts", _estimates(part, "coherent"))
    lead = "Shares of held-out test prompts. Rings are controls: random directions of equal norm."
    body = Markup('<div class="two">{}</div>').format(body) + table(
        _named(conditions, words), columns, name="conditions"
    )
    return Section("What the direction does", body, lead, "effect", "Effect")


def _named(rows: Rows, words: Words) -> list[dict[str, Any]]:
    """The rows with the classes of prompts as the study calls them."""
    return [{**row, "prompts": words.of(row["prompts"])} for row in rows]


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
    body, words = Markup(""), words_of(rows)
    for kind in ("harmful", "harmless"):
        chosen = [
            row for row in first_rows if row["prompts"] == kind and (not row["control"] or " 0 " in row["condition"])
        ]
        cards = [Card(row["condition"], row["text"], row["mode"], _remark(row)) for row in chosen]
        if cards:
            body += _HEADING.format(f"A prompt of the class {words.of(kind)}") + completions(
                cards, prompt=chosen[0]["prompt"]
            )
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
        _named(pick(rows, kind="completion"), words), columns, name="completions", chips=("stage",)
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
    wheels, panels, words = Markup(""), [], words_of(rows)
    for kind in ("harmful", "harmless"):
        arcs = {arc: _arc(turns, kind, arc) for arc in ARCS}
        for measure, title in (("refused", words.shown), ("coherent", "coherent")):
            laps = [
                Lap(_arc_name(arc), [row["degrees"] for row in part], [row[measure] for row in part], arc[2])
                for arc, part in arcs.items()
                if part
            ]
            wheels += wheel(f"{words.of(kind)} prompts: share {title}", laps)
        for measure in ("refused", "success")[: 2 if kind == "harmful" else 1]:
            label = words.shown if measure == "refused" else f"{words.otherwise} coherently"
            letter = "abcd"[len(panels)]
            panel = Panel(f"{words.of(kind)} prompts", label, "angle in degrees", letter=letter, group="circle")
            panels.append(curve(panel, _arc_series(arcs, measure)))
    legend = [(f"arc{arc[2]}", _arc_name(arc), arc[2]) for arc in ARCS]
    body = Markup('<div class="wheels">{}</div>').format(wheels) + curves(panels, _CIRCLE, legend=legend)
    lead = f"{turns[0]['n']} prompts of each class; on the rim all, in the centre none."
    return Section("Steering circle", body, lead, "circle", "Circle")


def _arc_series(arcs: Mapping[tuple[str, bool, str], list[Record]], measure: str) -> list[Series]:
    """One curve for each arc that was measured."""
    return [
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


def _arc(turns: Rows, kind: str, arc: tuple[str, bool, str]) -> list[Record]:
    part = {row["degrees"]: row for row in turns if (row["plane"], row["adaptive"], row["prompts"]) == (*arc[:2], kind)}
    return [part[degrees] for degrees in sorted(part)]


def _arc_name(arc: tuple[str, bool, str]) -> str:
    return {"plane": "plane of directions", "random axis": "random second axis"}[arc[0]] + ", adaptive" * arc[1]


def _rounds(score: str) -> dict[str, str]:
    return {
        "number": "Round",
        "site": "Read at",
        "position": "Position",
        "norm": "Norm",
        "cosine_before": "Cosine with the unablated difference there",
        "refusal": f"{score}, all ablated",
        "alone": f"{score}, this one ablated",
        "random": f"{score}, as many random",
    }


def _several(rows: Rows) -> Section | None:
    rounds, probes, cones = (pick(rows, kind=kind) for kind in ("round", "probe", "cone"))
    if not rounds and not probes and not cones:
        return None
    body, words = Markup(""), words_of(rows)
    score = f"{words.noun.capitalize()} score"
    if rounds:
        body += _HEADING.format("Extracted again while all earlier directions are ablated")
        body += table(
            rounds,
            _rounds(score),
            name="rounds",
        )
    if probes:
        body += _HEADING.format("Linear probes projected out one after the other (INLP)")
        body += table(
            probes,
            {"number": "Probe", "auc": "AUC on validation prompts", "refusal": f"{score}, all ablated"},
            name="probes",
        )
    if cones:
        body += _HEADING.format("A cone of directions optimised by gradient (RDO)")
        body += table(
            cones,
            {
                "dimension": "Dimension",
                "scores": f"{score} by direction",
                "selected": f"{score}, selected direction",
                "cosines": "Cosine with the selected",
            },
            name="cones",
        )
    lead = f"{score}: mean over {words.first} validation prompts in nats. Each round is orthogonal to the earlier ones."
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
