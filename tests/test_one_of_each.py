"""What there is to be only one of: control labels and colours, random streams, blocks of code, public names.

Each rule is read off the syntax trees and is shown to see a planted fault.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mi_ortho.nulls import CONTROLS, control

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
