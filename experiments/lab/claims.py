"""Reading experiments: the file of a claim, its docstring in parts, its configurations."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import experiments
from experiments.lab.bench import Bench
from experiments.lab.figures import Figure
from experiments.lab.needs import Need
from experiments.lab.predictions import GATES, Prediction, Predictions, read_predictions
from experiments.lab.readings import drawn, judged
from mi_ortho import Verdict

FOLDER = Path(__file__).resolve().parent.parent
PARTS = ("Source",)
CHANGED = "Changed after a first run"  # what was not fixed beforehand; only where there is such a thing
Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Experiment:
    """One claim's file, loaded.

    Attributes:
        name: of the file.
        claim: first sentence of its docstring.
        parts: the named paragraphs below it, by `PARTS`, each prediction in words, and `CHANGED` where something was.
        config: the standard setting; `smoke` the same in seconds.
        run: measures on a bench, recording rows; skips what is recorded.
        judge: rows to verdicts, a pure function.
        figures: rows to drawings, a pure function.
        path: the file.
        needs: what the model must have, looked at before anything is measured.
        predictions: the file that its readings are judged by; None in a planted experiment that judges by itself.
    """

    name: str
    claim: str
    parts: Mapping[str, str]
    config: Any
    smoke: Any
    run: Callable[[Any, Bench], None]
    judge: Callable[[Sequence[Row]], list[Verdict]]
    figures: Callable[[Sequence[Row]], list[Figure]]
    path: Path
    needs: Sequence[Need] = ()
    predictions: Predictions | None = None

    @property
    def command(self) -> str:
        """The command that runs it again."""
        return f"python -m experiments {self.name}"


def names() -> tuple[str, ...]:
    """Every experiment, in order."""
    return experiments.ORDER


def load(name: str) -> Experiment:
    """One experiment by the name of its file.

    Raises:
        ValueError: there is no such experiment, or its file lacks a part.
    """
    if name not in names():
        raise ValueError(f"got experiment {name!r}; expected one of {', '.join(names())}; see --list")
    return read(importlib.import_module(f"experiments.{name}"))


def read(module: Any) -> Experiment:
    """A module as an experiment; ValueError names what its file lacks.

    It is judged by its file of predictions, and what was predicted is drawn; its `figures`, if any, are more.
    """
    name = module.__name__.rpartition(".")[2]
    lacks = [part for part in ("Config", "SMOKE", "NEEDS", "run", "readings") if not hasattr(module, part)]
    claim, parts = parse(module.__doc__ or "")
    lacks += [f"a paragraph {part!r}" for part in PARTS if not parts.get(part)]
    if lacks or not claim:
        lacking = ", ".join(lacks) or "a claim"
        raise ValueError(f"got experiment {name!r} without {lacking}; expected all of them; complete its file")
    predictions = read_predictions(name)
    parts |= {one.question: in_words(one) for one in predictions.each.values()}
    parts |= {CHANGED: predictions.changed} if predictions.changed else {}

    def judge(rows: Sequence[Row]) -> list[Verdict]:
        return judged(predictions, list(module.readings(rows)) if rows else [])

    def figures(rows: Sequence[Row]) -> list[Figure]:
        more = module.figures(rows) if hasattr(module, "figures") else []
        return [*drawn(predictions, list(module.readings(rows)) if rows else []), *more]

    path = Path(inspect.getfile(module))
    return Experiment(
        name, claim, parts, module.Config(), module.SMOKE, module.run, judge, figures, path, module.NEEDS, predictions
    )


def in_words(one: Prediction) -> str:
    """A prediction as one paragraph of a page."""
    if one.side == "within":
        held = f"The difference from the control must be shown to be at most {one.threshold:g}."
    else:
        what = "Ratio to the control's count" if one.kind == "count" else "Value"
        more = f", and by at least {one.beyond:g} from the control" if one.beyond else ", and further than the control"
        held = f"{what} {one.side} {one.threshold:g}{'' if one.kind == 'count' else more}."
    gates = "; ".join(f"{GATES[name][0]} {GATES[name][1]} {limit:g}" for name, limit in one.gates.items())
    checked = f" Read only where: {gates}." if gates else ""
    return (
        f"Predicted: {one.predicts}. Measured: {one.statistic}. Control: {one.control}. {held} Unit: {one.unit}, at "
        f"least {one.minimum}.{checked} Separates {one.separates}."
    )


def parse(docstring: str) -> tuple[str, dict[str, str]]:
    """The claim and the named paragraphs of a docstring.

    >>> parse("A claim.\\n\\nSource: a paper.\\nPrediction: more\\n  than one.")
    ('A claim', {'Source': 'a paper.', 'Prediction': 'more than one.'})
    """
    claim, _, rest = inspect.cleandoc(docstring).partition("\n")
    pieces = re.split(rf"^({'|'.join((*PARTS, CHANGED))}): ", rest, flags=re.MULTILINE)
    return claim.rstrip("."), {key: " ".join(text.split()) for key, text in zip(pieces[1::2], pieces[2::2])}


def changed(config: Any, settings: Sequence[str]) -> Any:
    """The configuration with `key=value` settings applied, each value read as the field's own type.

    Raises:
        ValueError: an unknown key or a value of another type.
    """
    defaults = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values: dict[str, object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in defaults:
            raise ValueError(
                f"got --set {setting!r}; expected KEY=VALUE with KEY among {', '.join(defaults)}; correct it"
            )
        values[key] = _value(key, text, defaults[key])
    return dataclasses.replace(config, **values)


def _value(key: str, text: str, like: object) -> object:
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, tuple):
            kind = _reader(like[0]) if like else str
            return tuple(kind(part) for part in text.split(",") if part)
        return _reader(like)(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"got --set {key}={text!r}; expected a value like {like!r}; correct it") from error


def _reader(like: object) -> Callable[[str], object]:
    """How a text becomes a value of the same type."""
    return int if isinstance(like, int) else float if isinstance(like, float) else str
