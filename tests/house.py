"""The rooms of the package and the arrows between them, read off the imports: what the architecture test counts.

A room is each file or folder directly under `mi_ortho`, and each directly under `mi_ortho/studies`; an arrow is a pair
of rooms with an import, inside functions and by name at run time included. `python -m tests.house` draws the house
into docs/images/house.svg and prints how large it is.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "house.svg"
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

    @property
    def steps(self) -> frozenset[tuple[str, str]]:
        """The arrows that do not follow from others: from a room to one that it reaches in no other way."""
        below = {room: {b for a, b in self.arrows if a == room} for room in self.lines}
        reached: dict[str, set[str]] = {}
        for room, _ in sorted(self.levels.items(), key=lambda pair: pair[1]):
            reached[room] = set().union(below[room], *(reached[other] for other in below[room]))
        return frozenset((a, b) for a, b in self.arrows if not any(b in reached[other] for other in below[a]))


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


WIDE, HIGH, ACROSS = 110, 42, 4  # of a box; boxes in a row, few enough that a telephone shows their names
GAP, BETWEEN, LEFT, TOP = 10, 34, 34, 58  # beside a box, below a row, and the margins
# the reader's own light or dark: a picture in a page knows no other theme, and it brings its own ground
STYLE = """
svg { --ground: #ffffff; --ink: #1a1d21; --muted: #5c646e; --line: #8a949f; --math: #eaf2fa; --study: #fdf1e0 }
@media (prefers-color-scheme: dark) {
  svg { --ground: #15181c; --ink: #eceff2; --muted: #a6afb9; --line: #7d8791; --math: #1d3144; --study: #40311b }
}
text { font-family: system-ui, Helvetica, Arial, sans-serif; fill: var(--ink); font-size: 14px }
.name { text-anchor: middle; font-weight: 600; font-size: 13.5px }
.small { fill: var(--muted); font-size: 12px }
.count { text-anchor: middle; fill: var(--muted); font-size: 11.5px }
rect { stroke: var(--line); stroke-width: 1; fill: var(--math) }
.study rect { fill: var(--study) }
.ground { fill: var(--ground); stroke: none }
path { fill: none; stroke: var(--line); stroke-width: 1; opacity: 0.14 }
.step { opacity: 0.55 }
"""


def draw(house: House) -> str:
    """The house as an SVG: rooms by level, the commands on top; arrows that follow from others are fainter."""
    places, rows = _places(house)
    width, height = LEFT + ACROSS * (WIDE + GAP), TOP + len(rows) * (HIGH + BETWEEN) - BETWEEN + 14
    steps = house.steps
    levels = max(house.levels.values())
    counted = f"{len(house.lines)} rooms, {len(house.arrows)} arrows, {levels} levels"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{counted}">',
        f"<title>The rooms of mi_ortho: {counted}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
        f'<text class="small" x="12" y="22">{counted}; a room imports only what is below it.</text>',
        '<text class="small" x="12" y="40">Orange: the commands. Blue: what knows none. Numbers: lines of code.</text>',
    ]
    for a, b in sorted(house.arrows, key=lambda arrow: (arrow in steps, arrow)):
        (ax, ay), (bx, by) = places[a], places[b]
        x0, y0, x1, y1 = ax + WIDE / 2, ay + HIGH, bx + WIDE / 2, by
        bend = (y1 - y0) / 2
        shade = ' class="step"' if (a, b) in steps else ""
        line = f"M{x0:g} {y0:g}C{x0:g} {y0 + bend:g} {x1:g} {y1 - bend:g} {x1:g} {y1:g}"
        parts.append(f'<path{shade} data-arrow="{a} {b}" d="{line}"/>')
    for level, y in dict(reversed(rows)).items():
        parts.append(f'<text class="small" x="12" y="{y + 26}">{level}</text>')
    parts += [_room(room, count, *places[room]) for room, count in sorted(house.lines.items())]
    return "\n".join([*parts, "</svg>", ""])


def _room(room: str, count: int, x: float, y: float) -> str:
    study, name = room.startswith(f"{NESTED}.") or room == "cli", room.removeprefix(f"{NESTED}.")
    kind = ' class="study"' if study else ""
    return (
        f'<g{kind} data-room="{room}" data-lines="{count}"><title>{escape(room)}</title>'
        f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="5"/>'
        f'<text class="name" x="{x + WIDE / 2:g}" y="{y + 18:g}">{escape(name)}</text>'
        f'<text class="count" x="{x + WIDE / 2:g}" y="{y + 34:g}">{count:,}</text></g>'
    )


def _places(house: House) -> tuple[dict[str, tuple[float, float]], list[tuple[int, float]]]:
    """Where each room's box begins, the highest level on top, and the level and height of every row."""
    levels, places, rows = house.levels, {}, []
    for level in sorted(set(levels.values()), reverse=True):
        rooms = sorted(room for room in levels if levels[room] == level)
        count = -(-len(rooms) // ACROSS)  # rows, as equally filled as can be
        for k in range(count):
            row, y = rooms[k::count], TOP + len(rows) * (HIGH + BETWEEN)
            rows.append((level, y))
            start = LEFT + (ACROSS - len(row)) * (WIDE + GAP) / 2 + (k * 0.25 if count > 1 else 0) * WIDE
            places |= {room: (start + place * (WIDE + GAP), y) for place, room in enumerate(row)}
    return places, rows


def read_picture(svg: str) -> House:
    """The house that a drawing shows."""
    lines = {room: int(count) for room, count in re.findall(r'data-room="([\w.]+)" data-lines="(\d+)"', svg)}
    arrows = [(a, b) for a, b in re.findall(r'data-arrow="([\w.]+) ([\w.]+)"', svg)]
    return House(lines, frozenset(arrows))


def main() -> None:
    """Draw the picture and print its numbers."""
    house = read_house()
    if not house.levels:
        raise SystemExit("the rooms import each other in a circle: there are no levels to draw")
    PICTURE.write_text(draw(house), encoding="utf-8")
    print(f"{len(house.lines)} rooms, {len(house.arrows)} arrows, {max(house.levels.values())} levels")
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
