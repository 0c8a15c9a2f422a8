"""What there is to be only one of: control labels and colours, random streams, blocks of code, public names.

Each rule is read off the syntax trees and is shown to see a planted fault.
"""

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import mi_ortho.studies.dct.bench as dct_bench
import mi_ortho.studies.nulls.bench as nulls_bench
import mi_ortho.studies.refusal.bench as refusal_bench
from experiments.lab import families
from mi_ortho.nulls import CONTROLS, control
from mi_ortho.runs import random_stream
from mi_ortho.studies.family.job import Job
from mi_ortho.studies.geometry import survey
from mi_ortho.studies.presence import layers

ROOT = Path(__file__).resolve().parent.parent
CHANCE = "mi_ortho/nulls/chance.py"  # where the controls are told


def files(*folders: str) -> Iterator[tuple[str, str]]:
    """(path in the repository, source) of every Python file under some folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def control_faults(source: str) -> list[str]:
    """Labels of controls in a source, and colours that it gives to a control's name."""
    labels = {shown.label for shown in CONTROLS.values()}
    faults: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and _text(node) in labels:
            faults.append(f"line {node.lineno} writes the label {node.value!r}")
        pairs: list[tuple[ast.expr | None, ast.expr]] = []
        if isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values))
        elif isinstance(node, ast.Tuple | ast.List):
            pairs = [(node.elts[0], each) for each in node.elts[1:]]
        elif isinstance(node, ast.Call):
            pairs = [(one, other) for one in node.args for other in node.args if one is not other]
        for name, value in pairs:
            if _text(name) in CONTROLS and _text(value) in {f"c{k}" for k in range(8)}:
                faults.append(f"line {value.lineno} gives the control {_text(name)!r} a colour")
    return faults


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_controls_are_named_and_coloured_in_one_place() -> None:
    told = {name: control_faults(source) for name, source in files("mi_ortho", "experiments") if name != CHANCE}
    assert {name: faults for name, faults in told.items() if faults} == {}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("X = {'isotropic': 'random, isotropic'}", "writes the label"),
        ("STYLES = {'family': 'family', 'covariance': 'c1'}", "gives the control 'covariance' a colour"),
        ("GROUPS = (('isotropic', 'isotropic random', 'c2'),)", "gives the control 'isotropic' a colour"),
        ("Series('label', x, y, 'c2', 'untrained')", "gives the control 'untrained' a colour"),
    ],
)
def test_a_second_name_or_colour_of_a_control_is_seen(source: str, fault: str) -> None:
    faults = control_faults(source)
    assert len(faults) == 1 and fault in faults[0]


def test_controls_that_stand_together_differ_in_label_and_colour() -> None:
    from mi_ortho.studies.nulls.page_parts import GROUPS
    from mi_ortho.studies.presence.contrasts import NULLS

    family = ("random_base", "isotropic", "covariance", "span", "negated", "scaled_to_base")
    geometry = ("untrained", "shuffled")
    for names in (family, NULLS, geometry, [name for name, *_ in GROUPS if name in CONTROLS]):
        shown = [control(name) for name in names]
        assert len({each.label for each in shown}) == len({each.colour for each in shown}) == len(names)


# --- random streams


class Holder:
    """Anything with the attributes that a study's method looks at."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def first(stream: torch.Generator) -> float:
    return float(torch.rand((), generator=stream, dtype=torch.float64))


SEEDED = Holder(seed=3)
STREAMS: dict[str, tuple[Any, dict[Any, float]]] = {  # what finished runs were computed with; nothing may change it
    "family": (
        partial(Job.generator, cast(Any, Holder(device=torch.device("cpu"), config=SEEDED))),
        {(0,): 0.3350087342598518, (11,): 0.16420226032679952, (20,): 0.5962027315401678},
    ),
    "nulls": (
        partial(nulls_bench.Bench.generator, cast(Any, Holder(config=SEEDED))),
        {(0,): 0.27051520850708355, (130,): 0.45364895362827096},
    ),
    "refusal": (
        partial(refusal_bench.Study.generator, cast(Any, Holder(config=SEEDED))),
        {(1,): 0.4283818086604929, (5,): 0.041623606180751116},
    ),
    "dct": (
        partial(dct_bench.Study.generator, cast(Any, Holder(subject=Holder(device="cpu")))),
        {("scale",): 0.14719244423042066, ("fit 0 linear",): 0.45095108010007834},
    ),
    "presence": (
        layers.Effort(sets=1, shuffles=1, tokens=1, seed=3).generator,
        {(2, 0): 0.02915798031404926, (4, 902, True): 0.787511004278749, (1, 700): 0.6685402200854356},
    ),
    "geometry": (survey.Effort(seed=3).generator, {(0,): 0.8990255453325596, (5,): 0.7809645925416245}),
    "passages of presence": (partial(random_stream, 3, times=1_000_003), {(7,): 0.8371948068345005}),
    "experiments": (
        partial(families.Case.generator, cast(Any, Holder(setup=SEEDED, index=4, bench=Holder(device="cpu")))),
        {(0,): 0.5552213644262661, (23,): 0.42603061654972973},
    ),
}


@pytest.mark.parametrize("study", STREAMS)
def test_random_streams_are_those_of_finished_runs(study: str) -> None:
    stream, numbers = STREAMS[study]
    assert {stage: first(stream(*stage)) for stage in numbers} == numbers


def test_a_seed_that_many_stages_make_too_large_is_cut() -> None:
    assert random_stream(2**60, 1, 2, times=1009, plus=1).initial_seed() == ((2**60 * 1009 + 2) * 1009 + 3) % 2**62


def seed_faults(source: str) -> list[int]:
    """Lines that work a seed out instead of asking for a stream."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    seeded = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "manual_seed"]
    return [call.lineno for call in seeded if any(isinstance(part, ast.BinOp) for part in ast.walk(call.args[0]))]


def test_studies_work_out_no_seeds_of_their_own() -> None:
    assert {name: lines for name, source in files("mi_ortho/studies") if (lines := seed_faults(source))} == {}
    assert seed_faults("torch.Generator().manual_seed(self.seed * 1009 + stage)") == [1]
