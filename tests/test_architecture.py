"""The shape of the package: what may import what, and no module escapes the run-time type checker.

All from the syntax trees, imports inside functions included; each rule is shown to reject a planted fault.
"""

import ast
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import house
import pytest
import torch

import mi_ortho
from mi_ortho.interventions.sites import resid_post
from mi_ortho.interventions.subspace import span

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = sorted(path.parent.name for path in (ROOT / "mi_ortho" / "studies").glob("*/command.py"))
NOT_COMMANDS = ("shared", "family", "overview")  # what studies share; what others read; what looks at all of them

# Each room imports only rooms to its left; a package is one room, and so is each study.
ORDER = (
    *("typecheck", "stats", "runs", "behaviours", "interventions"),
    *("elicitation", "probes", "pages", "model"),
    *("derivatives", "steering", "refusal", "studies.shared"),
    *("dct", "nulls", "geometry", "multiplicity"),
    *("studies", "studies.family"),
    *(f"studies.{name}" for name in COMMANDS if name not in NOT_COMMANDS),
    *("studies.overview", "cli"),
)
# a study imports no other but to read a finished run of `family`, its rows as its own page reads them included
FINISHED = ("mi_ortho.studies.family.finished", "mi_ortho.studies.family.page_records")
LIMITS = {"rooms": 36, "arrows": 130, "levels": 8}  # who adds a command raises them by its own arrows, and says so
ONLY_IN = {
    "transformer_lens": "model",
    "circuitsvis": "pages",
    "matplotlib": "pages",
    "jinja2": "pages",
    "statsmodels": "stats",
}
UNCHECKED = ("mi_ortho", "mi_ortho.typecheck")  # installs the hook; is the checker
VAGUE = ("util", "utils", "helper", "helpers", "manager", "process", "common", "misc")


def imports(module: str, source: str, is_package: bool = False) -> Iterator[tuple[str, str | None]]:
    """Every (module, name) that `module` imports, absolute; the name is None for `import module`, also by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = parts[: len(parts) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((origin, alias.name) for alias in node.names)
        elif named := named_module(node):
            yield named, None  # imported at run time


def named_module(node: ast.AST) -> str | None:
    """The module of the package that a text in the source names, alone or as module:function."""
    text = node.value if isinstance(node, ast.Constant) else None
    if not isinstance(text, str) or not house.PLACE.match(text):
        return None
    place = ROOT.joinpath(*text.split(":")[0].split("."))
    return text.split(":")[0] if place.is_dir() or place.with_suffix(".py").is_file() else None


def unit(name: str) -> str:
    """The room that a dotted name of the package belongs to: mi_ortho.model.slice -> model."""
    parts = name.split(".")[1:]
    return ".".join(parts[:2]) if parts[:1] == ["studies"] else "".join(parts[:1])


def library_faults(module: str, source: str, is_package: bool = False) -> list[str]:
    """What one module of the library imports against the rules."""
    own, faults = unit(module), []
    if own not in ORDER:
        return [f"{module} has no place in ORDER"]
    if own in VAGUE:
        faults.append(f"{module} has a name that says nothing")
    for origin, name in imports(module, source, is_package):
        top = origin.split(".")[0]
        if (top, name) == ("__future__", "annotations"):
            faults.append(f"{module} turns its annotations into text, which dataclass fields then never check")
        if ONLY_IN.get(top, own) != own:
            faults.append(f"{module} imports {top}, which only {ONLY_IN[top]} may")
        if top == "cyclopts" and own != "cli" and not module.endswith(".command"):
            faults.append(f"{module} imports cyclopts, which only cli and a study's command may")
        if top == "mi_ortho":
            whole = f"{origin}.{name}" if name and origin in ("mi_ortho", "mi_ortho.studies") else origin
            used = unit(whole) or "the whole package"
            if own.startswith("studies.") and used.startswith("studies.") and not reads(own, used, origin):
                faults.append(f"{module} imports {origin}: a study reads another's finished run only")
            elif used != own and (used not in ORDER or ORDER.index(used) > ORDER.index(own)):
                faults.append(f"{module} imports {used}, which does not come before it")
        if top in ("experiments", "benchmarks", "tests"):
            faults.append(f"{module} imports {origin}")
    return faults


def reads(own: str, used: str, origin: str) -> bool:
    """Whether one study may import this of another."""
    return used in (own, "studies.shared") or own == "studies.overview" or origin in FINISHED


def experiment_faults(module: str, source: str) -> list[str]:
    """What one experiment or benchmark imports besides public names of the library and its own folder's."""
    faults, own = [], module.split(".")[1] if module.count(".") > 1 else module
    for origin, name in imports(module, source):
        parts = [*origin.split("."), *([name] if name else [])]
        if parts[0] == "mi_ortho" and any(part.startswith("_") for part in parts):
            faults.append(f"{module} imports {'.'.join(parts)}, which is private")
        one_program = parts[0] == "benchmarks" and module.startswith("benchmarks.")
        # what all experiments stand on; the lab itself may use the organisms
        stood_on = [[], ["lab"], ["listing"], *([["organism"]] if own == "lab" else [])]
        shared = parts[0] == "experiments" and parts[1:2] in stood_on
        if parts[0] in ("experiments", "benchmarks") and parts[1:2] != [own] and not one_program and not shared:
            faults.append(f"{module} imports {'.'.join(parts)}: experiments never import each other")
        # the published loop, which the benchmarks time, is written on TransformerLens itself; the paper is a template
        own_tools = {("benchmarks.models", "transformer_lens"), ("experiments.lab.paper", "jinja2")}
        allowed = parts[0] == "matplotlib" or (module, parts[0]) in own_tools
        if parts[0] in ONLY_IN and not allowed:
            faults.append(f"{module} imports {parts[0]} instead of a public name of mi_ortho")
    return faults


def sources(folder: str) -> list[tuple[str, Path]]:
    """(dotted module, file) of every Python file under a folder of the repository."""
    found = sorted((ROOT / folder).rglob("*.py"))
    dotted = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in found]
    return [(name.removesuffix(".__init__"), path) for name, path in zip(dotted, found)]


@pytest.mark.parametrize(("module", "path"), sources("mi_ortho"), ids=str)
def test_library_imports_in_order(module: str, path: Path) -> None:
    if module != "mi_ortho":  # the root names everything
        assert library_faults(module, path.read_text(), path.name == "__init__.py") == []


def test_the_house_is_as_small_as_it_was_meant_to_be() -> None:
    counted = house.read_house()
    assert counted.levels, "the rooms import each other in a circle"
    numbers = {"rooms": len(counted.lines), "arrows": len(counted.arrows), "levels": max(counted.levels.values())}
    assert all(numbers[name] <= limit for name, limit in LIMITS.items()), numbers
    assert not [(a, b) for a, b in counted.arrows if counted.levels[a] <= counted.levels[b]]


def test_the_house_is_counted(tmp_path: Path) -> None:
    files = {
        "one.py": "import mi_ortho.two\n",
        "two/__init__.py": "",
        "two/inside.py": "def f():\n    from ..three import g\n",
        "three.py": "PLACE = 'mi_ortho.studies.four.page:draw'\n",
        "studies/__init__.py": "",
        "studies/four/page.py": "",
    }
    for name, text in files.items():
        (tmp_path / "mi_ortho" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mi_ortho" / name).write_text(text)
    counted = house.read_house(tmp_path / "mi_ortho")
    assert counted.levels == {"studies.four": 1, "three": 2, "two": 3, "one": 4}
    (tmp_path / "mi_ortho/studies/four/page.py").write_text("from mi_ortho.one import x\n")
    assert house.read_house(tmp_path / "mi_ortho").levels == {}


@pytest.mark.parametrize(("module", "path"), sources("experiments") + sources("benchmarks"), ids=str)
def test_experiments_use_public_names_only(module: str, path: Path) -> None:
    assert experiment_faults(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("mi_ortho.stats", "from mi_ortho.pages import Section", "imports pages, which does not come before it"),
        ("mi_ortho.stats", "import mi_ortho.pages", "imports pages"),
        ("mi_ortho.stats", "from mi_ortho import pages", "imports pages"),
        ("mi_ortho.stats", "from .pages import Section", "imports pages"),
        ("mi_ortho.stats", "from . import pages", "imports pages"),
        ("mi_ortho.stats", "def f():\n    from mi_ortho.cli import main", "imports cli"),
        ("mi_ortho.stats", "def f():\n    return import_module('mi_ortho.cli.doctor')", "imports cli"),
        ("mi_ortho.runs.rows", "PAGE = 'mi_ortho.studies.dct.page:dct_report'", "imports studies.dct"),
        ("mi_ortho.studies.dct.page", "import mi_ortho.studies.nulls.page", "another's finished run only"),
        ("mi_ortho.studies.nulls.page", "from mi_ortho.studies.dct.page import x", "another's finished run only"),
        ("mi_ortho.studies.nulls.page", "from mi_ortho.studies.family.job import x", "another's finished run only"),
        ("mi_ortho.studies.shared.progress", "from mi_ortho.studies.family.job import x", "finished run only"),
        ("mi_ortho.studies.dct.page", "from cyclopts import App", "which only cli and a study's command may"),
        ("mi_ortho.model.slice", "from ..steering import measure", "imports steering"),
        ("mi_ortho.stats", "import mi_ortho", "imports the whole package"),
        ("mi_ortho.stats", "from mi_ortho import load", "imports load"),
        ("mi_ortho.runs.directory", "def f():\n    import transformer_lens.hook_points", "which only model may"),
        ("mi_ortho.studies.family.stages", "from matplotlib import pyplot", "which only pages may"),
        ("mi_ortho.runs.directory", "import jinja2", "which only pages may"),
        ("mi_ortho.runs.directory", "from __future__ import annotations", "annotations into text"),
        ("mi_ortho.runs.directory", "import experiments.organism", "imports experiments"),
        ("mi_ortho.utils", "", "has no place in ORDER"),
    ],
)
def test_library_faults_are_seen(module: str, source: str, fault: str) -> None:
    faults = library_faults(module, source)
    assert len(faults) == 1 and fault in faults[0]


def test_what_is_allowed_is_not_a_fault() -> None:
    source = "import torch\nfrom mi_ortho.model.hooks import run\nfrom .prompts import Prompts\nimport transformer_lens"
    assert library_faults("mi_ortho.model.slice", source) == []
    assert (
        library_faults(
            "mi_ortho.model", "from .slice import Slice\nfrom mi_ortho.interventions.sites import Site", True
        )
        == []
    )
    assert library_faults("mi_ortho.pages.page", "import jinja2\nfrom mi_ortho.runs.directory import open_run") == []
    assert experiment_faults("experiments.organism.train", "from experiments.organism.network import build") == []
    assert experiment_faults("experiments.claim", "import mi_ortho as mo\nfrom mi_ortho import load, slice_model") == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from mi_ortho.model import _bridge", "private"),
        ("from mi_ortho.model._hidden import x", "private"),
        ("from experiments.other import run", "never import each other"),
        ("import experiments.organism.train", "never import each other"),
        ("from transformer_lens import HookedTransformer", "instead of a public name"),
    ],
)
def test_experiment_faults_are_seen(source: str, fault: str) -> None:
    faults = experiment_faults("experiments.claim", source)
    assert len(faults) == 1 and fault in faults[0]


def escapes(module: ModuleType) -> bool:
    """Whether a module was loaded past the jaxtyping import hook, so that nothing in it is checked."""
    return module.__spec__ is None or not type(module.__spec__.loader).__module__.startswith("jaxtyping")


def test_no_module_escapes_the_type_checker() -> None:
    found = [info.name for info in pkgutil.walk_packages(mi_ortho.__path__, "mi_ortho.")]
    assert {unit(name) for name in found} <= set(ORDER)
    escaped = [name for name in found if name not in UNCHECKED and escapes(importlib.import_module(name))]
    assert escaped == []


def test_a_module_loaded_past_the_hook_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "planted.py"
    path.write_text("def f(x: int) -> int:\n    return x\n")
    spec = importlib.util.spec_from_file_location("mi_ortho.planted", path)
    assert spec is not None and spec.loader is not None
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    assert escapes(planted) and planted.f("no error") == "no error"
    assert "mi_ortho.planted" not in sys.modules


def test_shapes_and_types_are_checked_at_run_time() -> None:
    with pytest.raises(Exception, match="Float"):
        span(torch.ones(3, 2, 2))
    with pytest.raises(Exception, match="layer"):
        resid_post("3")  # pyright: ignore[reportArgumentType]


def reexported(stub: str) -> set[str]:
    """The names a type checker lets users import from a stub: those in `__all__` and those imported `as` themselves."""
    names: set[str] = set()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and ast.unparse(node).startswith("__all__"):
            names |= {item.value for item in ast.walk(node) if isinstance(item, ast.Constant)}  # pyright: ignore
    return names


def test_the_stub_of_the_package_exports_what_the_package_exports() -> None:
    assert reexported((ROOT / "mi_ortho" / "__init__.pyi").read_text()) == set(mi_ortho.__all__)
    assert all(hasattr(mi_ortho, name) for name in mi_ortho.__all__)
    assert reexported("from .a import b, c as c\n__all__ = ['d']") == {"c", "d"}
