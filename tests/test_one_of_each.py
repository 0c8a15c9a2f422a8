"""What there is to be only one of: control labels and colours, random streams, blocks of code, public names.

And names that say what a variable holds, not how it came about.

Each rule is read off the syntax trees and is shown to see a planted fault.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch

import mi_ortho
import mi_ortho.studies.dct.bench as dct_bench
import mi_ortho.studies.nulls.bench as nulls_bench
import mi_ortho.studies.refusal.bench as refusal_bench
from experiments.lab import bases
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

    family = ("random_base", "random_base_displaced", "isotropic", "covariance", "span", "negated", "scaled_to_base")
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
        partial(bases.Base.generator, cast(Any, Holder(place=SEEDED, index=4, bench=Holder(device="cpu")))),
        {(0,): 0.5552213644262661, (23,): 0.42603061654972973},
    ),
}


@pytest.mark.as_drawn
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


# --- blocks of code

SAME_LINES = 10  # equal lines in a row that two places may have


def code_lines(source: str) -> list[tuple[int, str]]:
    """(number, text) of every line of code, spaces evened, without imports, signatures, docstrings and comments."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # twins that are called alike are no copies
                left_out |= set(range(node.lineno, first.lineno))
            if isinstance(first, ast.Expr) and _text(first.value):
                left_out |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    numbered = ((number, " ".join(line.split())) for number, line in enumerate(source.splitlines(), 1))
    return [(number, text) for number, text in numbered if text and text[0] != "#" and number not in left_out]


def repeated(sources: Mapping[str, str], most: int = SAME_LINES) -> list[tuple[str, ...]]:
    """Places that have more than so many equal lines in a row."""
    places: dict[tuple[str, ...], list[str]] = {}
    for name, source in sources.items():
        lines = code_lines(source)
        for start in range(len(lines) - most):
            block = lines[start : start + most + 1]
            places.setdefault(tuple(text for _, text in block), []).append(f"{name}:{block[0][0]}")
    return [tuple(names) for names in places.values() if len(names) > 1]


def test_no_block_of_code_stands_in_two_places() -> None:
    assert repeated(dict(files("mi_ortho", "experiments"))) == []


def test_a_block_in_two_places_is_seen() -> None:
    block = "".join(f"    value_{k} = {k}\n" for k in range(SAME_LINES + 1))
    one, other = f"def f():\n{block}", f'"""Other words."""\nimport torch\n\n\nclass A:\n    def g(self):\n    {block}'
    other = other.replace("    value", "        value").replace("            value", "        value", 1)
    assert repeated({"one": one, "other": other}) == [("one:2", "other:7")]
    assert repeated({"one": one, "other": other.replace("value_5", "worth_5")}) == []
    assert repeated({"one": one + one.replace("f()", "g()")}) == [("one:2", "one:14")]


# --- public names

FACE = 80  # names at the root at most


def namespaces() -> dict[str, ModuleType]:
    """Every namespace of the package by its dotted name: rooms, and studies."""
    rooms = {f"mi_ortho.{name}": getattr(mi_ortho, name) for name in mi_ortho.__all__}
    rooms |= {f"mi_ortho.studies.{name}": getattr(mi_ortho.studies, name) for name in mi_ortho.studies.__all__}
    return {name: room for name, room in rooms.items() if isinstance(room, ModuleType)}


def public(name: str, room: ModuleType) -> dict[str, object]:
    """What a namespace offers: its `__all__`, or in a single file what is defined there."""
    defined = [key for key, value in vars(room).items() if getattr(value, "__module__", "") == name and key[0] != "_"]
    return {key: getattr(room, key) for key in getattr(room, "__all__", defined)}


def twice(offered: Mapping[str, Mapping[str, object]]) -> dict[str, list[str]]:
    """Names by which two namespaces mean different things, with these namespaces."""
    meant: dict[str, dict[str, object]] = {}
    for room, things in offered.items():
        for name, thing in things.items():
            meant.setdefault(name, {})[room] = thing
    return {name: list(rooms) for name, rooms in meant.items() if len({id(thing) for thing in rooms.values()}) > 1}


def test_a_public_name_means_one_thing() -> None:
    offered = {name: public(name, room) for name, room in namespaces().items() if name != "mi_ortho.studies"}
    root = {name: getattr(mi_ortho, name) for name in mi_ortho.__all__}
    offered["mi_ortho"] = {name: thing for name, thing in root.items() if not isinstance(thing, ModuleType)}
    assert len(offered) > 20 and all(name == "mi_ortho.studies" or "." in name or offered[name] for name in offered)
    assert twice(offered) == {}


def test_a_second_meaning_of_a_name_is_seen() -> None:
    same, other = object(), object()
    assert twice({"a": {"x": same, "y": same}, "b": {"x": other, "y": same}}) == {"x": ["a", "b"]}


def face_faults(source: str, known: set[str]) -> list[str]:
    """Modules below a namespace that a source imports; `cli`, how a program reads its command line, is none."""
    reached: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            reached += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            reached.append(node.module)
    ours = [name for name in reached if name.split(".")[0] == "mi_ortho" and name.split(".")[1:2] != ["cli"]]
    return [name for name in ours if name != "mi_ortho" and name not in known]


def test_the_face_is_small_and_enough() -> None:
    assert len(mi_ortho.__all__) <= FACE
    known = set(namespaces())
    read = files("experiments", "benchmarks", "docs/tutorials")
    assert {name: faults for name, source in read if (faults := face_faults(source, known))} == {}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from mi_ortho.model.slice import slice_model", "mi_ortho.model.slice"),
        ("import mi_ortho.runs.rows", "mi_ortho.runs.rows"),
        ("def f():\n    from mi_ortho.studies.family.finished import MATCHES", "mi_ortho.studies.family.finished"),
    ],
)
def test_an_import_below_a_namespace_is_seen(source: str, fault: str) -> None:
    assert face_faults(source, set(namespaces())) == [fault]
    allowed = "import mi_ortho as mo\nfrom mi_ortho.studies.nulls import share\nfrom mi_ortho.cli.exit_code import ends"
    assert face_faults(allowed, set(namespaces())) == []


# --- pages

PAGE_LINES = 40  # of a function of a page


def long_functions(source: str, most: int = PAGE_LINES) -> list[str]:
    """Functions of more lines than that, docstrings included."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in nodes if (node.end_lineno or 0) - node.lineno + 1 > most]


def test_functions_of_pages_are_short() -> None:
    pages = {name: source for name, source in files("mi_ortho/studies", "mi_ortho/pages") if is_page(name)}
    assert len(pages) > 25
    assert {name: long for name, source in pages.items() if (long := long_functions(source))} == {}


def is_page(name: str) -> bool:
    return name.startswith("mi_ortho/pages/") or Path(name).name.startswith("page")


def test_a_long_function_is_seen() -> None:
    assert long_functions("def f():\n" + "    x = 1\n" * PAGE_LINES) == ["f"]
    assert long_functions("def f():\n" + "    x = 1\n" * (PAGE_LINES - 1)) == []


# --- names of variables

SAYS_NOTHING = ("found", "known", "drawn", "own")  # of what a variable holds
# parameters of public functions, which callers may name
KEYWORDS = {
    ("mi_ortho/stats/outcomes.py", "decide"),
    ("mi_ortho/stats/outcomes.py", "judge"),
    ("mi_ortho/refusal/rankings.py", "compare_rankings"),
    ("mi_ortho/refusal/selection.py", "reasons"),
    ("mi_ortho/refusal/selection.py", "select"),
    ("mi_ortho/refusal/several.py", "largest_difference"),
}


def empty_names(source: str, keywords: Collection[str] = ()) -> list[str]:
    """Variables and parameters of a source with such names; fields, attributes and keywords of calls are none."""
    nodes: list[Any] = list(ast.walk(ast.parse(source)))
    fields = {id(part.target) for node in nodes if isinstance(node, ast.ClassDef) for part in _fields(node)}
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name in keywords]
    allowed = fields | {id(argument) for node in functions for argument in ast.walk(node.args)}
    names = [(node.lineno, _bound(node)) for node in nodes if _bound(node) and id(node) not in allowed]
    return [f"line {line}: {name}" for line, name in sorted(names) if name in SAYS_NOTHING]


def _fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    return [part for part in node.body if isinstance(part, ast.AnnAssign)]


def _bound(node: Any) -> str:
    """The name that a node gives to a value: by assignment, loop, `with`, pattern, import, error or parameter."""
    if isinstance(node, ast.Name):
        return node.id if isinstance(node.ctx, ast.Store) else ""
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.alias):
        return node.asname or ""
    return node.name or "" if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) else ""


def test_variables_are_named_by_what_they_hold() -> None:
    named = {
        name: empty_names(source, {function for file, function in KEYWORDS if file == name})
        for name, source in files("mi_ortho")
    }
    assert {name: faults for name, faults in named.items() if faults} == {}


def test_keywords_that_are_excused_exist() -> None:
    sources = dict(files("mi_ortho"))
    needed = {
        (file, name)
        for file, name in KEYWORDS
        if len(empty_names(sources[file])) > len(empty_names(sources[file], [name]))
    }
    assert needed == KEYWORDS


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    found = 1",
        "def f(x):\n    known, y = x",
        "def f(x):\n    for drawn in x:\n        pass",
        "x = [own for own in y]",
        "if (found := f()):\n    pass",
        "with f() as known:\n    pass",
        "try:\n    f()\nexcept ValueError as found:\n    pass",
        "def f(own):\n    pass",
        "def f(*drawn, **rest):\n    pass",
        "f = lambda found: found",
        "import torch as known",
        "class A:\n    def f(self, found: int = 1) -> int:\n        return found",
        "match x:\n    case [found, *rest]:\n        pass",
    ],
)
def test_a_variable_that_says_nothing_is_seen(source: str) -> None:
    assert len(empty_names(source)) == 1


def test_fields_attributes_and_keywords_are_no_variables() -> None:
    assert empty_names("class A:\n    found: int\n\n\ndef f(x):\n    x.known = x.found\n    return g(found=x)") == []
    assert empty_names("def decide(found):\n    return found", {"decide"}) == []
    assert empty_names("def decide(x):\n    found = x", {"decide"}) == ["line 2: found"]
