"""The rooms of the package and the arrows between them, read off the imports: what the architecture test counts.

A room is each file or folder directly under `mi_ortho`, and each directly under `mi_ortho/studies`; an arrow is a pair
of rooms with an import, inside functions and by name at run time included.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NESTED = "studies"
PLACE = re.compile(r"^mi_ortho(\.[a-z_]\w*)+(:\w+)?$")  # a module, or module:function, named in a text


@dataclass(frozen=True)
class House:
    """Rooms with the lines in each, arrows from the room that imports to the room that is imported, and levels.

    A room lies one level above the highest room it imports; a circle has no levels, and `levels` is then empty.
    """

    lines: dict[str, int]
    arrows: frozenset[tuple[str, str]]

    @property
    def levels(self) -> dict[str, int]:
        known: dict[str, int] = {}
        below = {room: {b for a, b in self.arrows if a == room} for room in self.lines}
        while len(known) < len(below):
            ready = {room for room in below if room not in known and below[room] <= known.keys()}
            if not ready:
                return {}
            known |= {room: 1 + max((known[other] for other in below[room]), default=0) for room in ready}
        return known


def room_of(name: str) -> str:
    """The room of a dotted name of the package; "" for the package itself.

    >>> room_of("mi_ortho.model.slice"), room_of("mi_ortho.studies.family.page"), room_of("mi_ortho")
    ('model', 'studies.family', '')
    """
    parts = name.split(".")[1:]
    return ".".join(parts[:2]) if parts[:1] == [NESTED] else "".join(parts[:1])


def read_house(root: Path = ROOT / "mi_ortho") -> House:
    """The house of a checkout; the face of the package (`__init__` of root and of studies) is no room."""
    files = [path for path in sorted(root.rglob("*.py")) if path.parent.name != "__pycache__"]
    dotted = {path: _dotted(root, path) for path in files}
    known = set(dotted.values())
    rooms: dict[str, int] = {}
    arrows = set()
    for path, name in dotted.items():
        room = room_of(name)
        if room in ("", NESTED):
            continue
        source = path.read_text("utf-8")
        rooms[room] = rooms.get(room, 0) + source.count("\n")
        arrows |= {(room, other) for other in map(room_of, imported(name, source, known)) if other not in ("", room)}
    return House(rooms, frozenset((a, b) for a, b in arrows if b in rooms))


def imported(module: str, source: str, known: set[str]) -> Iterator[str]:
    """Every module of the package that a source imports, also by a name in a text."""
    package = module if module in {name.rsplit(".", 1)[0] for name in known} else module.rsplit(".", 1)[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "mi_ortho")
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            if origin.split(".")[0] == "mi_ortho":
                inner = [f"{origin}.{alias.name}" for alias in node.names]
                yield from (one if one in known else origin for one in inner)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and PLACE.match(node.value):
            name = node.value.split(":")[0]
            if name in known:
                yield name


def _dotted(root: Path, path: Path) -> str:
    name = path.relative_to(root.parent).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")
