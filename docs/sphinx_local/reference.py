"""Writes the pages of the API reference before a build: every public name of every namespace.

A name that is new in a namespace appears without a change here; a new namespace goes to the last page until it is
named in TOPICS. Names that also stand at the root are described there.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mi_ortho

STUB = Path(mi_ortho.__file__).with_name("__init__.pyi")
TOPICS = {
    "model": ("Models, prompts and slices", ("model",)),
    "elicitation": ("Finding steering vectors", ("elicitation",)),
    "family": ("Families and what a count means", ("multiplicity", "nulls")),
    "derivatives": ("Derivatives and transcoding", ("derivatives", "dct")),
    "interventions": ("Sites, subspaces and interventions", ("interventions",)),
    "presence": ("Activations", ("probes", "geometry")),
    "refusal": ("Refusal", ("refusal",)),
    "behaviour": ("Behaviours, measures and files of vectors", ("behaviours", "steering", "stats")),
    "runs": ("Runs, settings and results", ("runs", *(f"studies.{name}" for name in mi_ortho.studies.__all__))),
    "pages": ("Pictures and reports", ("pages",)),
}
LAST = "further"


def exported(text: str) -> dict[str, list[str]]:
    """The names that a stub imports, by room.

    >>> exported("from .a import x, y\\nfrom .b.c import z\\nfrom . import d")
    {'a': ['x', 'y'], 'b': ['z']}
    """
    found: dict[str, list[str]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            parts = node.module.split(".")
            room = ".".join(parts[: 1 + (parts[0] == "studies")])  # a study is a room of its own
            found.setdefault(room, []).extend(alias.name for alias in node.names)
    return found


def spaces(text: str) -> list[str]:
    """The namespaces that a stub imports whole.

    >>> spaces("from .a import x\\nfrom . import d, e")
    ['d', 'e']
    """
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom) and node.module is None]
    return [alias.name for node in nodes for alias in node.names]


def pages() -> dict[str, tuple[str, list[str]]]:
    """File name to title and modules, of every page."""
    modules = [name for name in spaces(STUB.read_text("utf-8")) if name != "studies"]
    named = {module for _, group in TOPICS.values() for module in group}
    found = {file: (title, list(group)) for file, (title, group) in TOPICS.items()}
    found[LAST] = ("Further modules", [m for m in modules if m not in named])
    return {file: (title, group) for file, (title, group) in found.items() if group}


def page(title: str, modules: list[str]) -> str:
    """One page as reStructuredText."""
    return "\n".join([title, "=" * len(title), "", *(line for module in modules for line in section(module))])


def section(module: str) -> Iterator[str]:
    """One module: its docstring and its public names."""
    found = importlib.import_module(f"mi_ortho.{module}")
    at_root = exported(STUB.read_text("utf-8")).get(module, [])
    yield from [module, "-" * len(module), "", *escaped((inspect.getdoc(found) or "").splitlines()), ""]
    for name in at_root:
        yield from entry("mi_ortho", name)
    for name in public(found):
        if name not in at_root and inspect.getdoc(getattr(found, name)):
            yield from entry(f"mi_ortho.{module}", name)


def public(module: Any) -> list[str]:
    """What a module says is public, or what it defines itself."""
    own = [n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return list(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


def entry(module: str, name: str) -> list[str]:
    """The directive that describes one name."""
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value):
        return [f".. autoclass:: {module}.{name}", "   :members:", ""]
    return [f".. auto{'function' if inspect.isroutine(value) else 'data'}:: {module}.{name}", ""]


def escaped(lines: list[str]) -> list[str]:
    """Docstrings are plain text with names in backticks: what reStructuredText would read as markup is escaped.

    >>> escaped(["|z(v)| * `a*b`", ">>> a * b"])
    ['\\\\|z(v)\\\\| \\\\* `a*b`', '>>> a * b']
    """
    return [line if line.lstrip().startswith((">>>", "...")) else _escape(line) for line in lines]


def _escape(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if k % 2 else re.sub(r"([|*\\]|(?<=\w)_(?!\w))", r"\\\1", part) for k, part in enumerate(parts))


def write(app: Any) -> None:
    """Write the pages that changed, and remove those that are gone."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    wanted = {f"{file}.rst": page(*found) for file, found in pages().items()}
    for path in folder.glob("*.rst"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def _plain(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    if what != "data" or inspect.getdoc(type(value)) != inspect.getdoc(value):
        lines[:] = escaped(lines)
    else:
        lines[:] = []  # an alias has no docstring of its own, only that of its type


def _signature(app: Any, what: str, name: str, value: Any, options: Any, given: str, returned: str) -> Any:
    """Constructors without the fields that are private."""
    if what != "class" or not given:
        return None
    return re.sub(r"(?:, |(?<=\())_\w+(?=: | ?=).*?(?=, \w+:|\) -> None|\)$)", "", given), None


def setup(app: Any) -> dict[str, object]:
    """Register with Sphinx."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", _plain, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}
