"""Small matrices as tables: every number readable, coloured by its value, with marks for what a number cannot say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mi_ortho.pages.text import clip, number, visible

_BLUE, _ORANGE = "0, 114, 178", "213, 94, 0"
_DEEPEST = 0.75  # opacity of the strongest colour: text stays readable on it in light and dark
_LONGEST = 24  # characters of a name at an edge


@dataclass(frozen=True)
class Cell:
    """One entry: its value (None is a dash), letters beside it, what appears on hover, and whether it is framed."""

    value: float | None
    letters: str = ""
    note: str = ""
    framed: bool = False


def grid(
    cells: Sequence[Sequence[Cell]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    caption: str,
    corner: str = "",
    largest: float | None = None,
) -> Markup:
    """A table of coloured numbers: blue above zero, orange below, deepest at `largest` (None: the largest there is).

    Wide tables scroll sideways, long ones downwards, with the names of rows and columns kept in view.
    """
    if any(len(row) != len(column_names) for row in cells) or len(cells) != len(row_names):
        raise ValueError(
            f"got {len(row_names)} row and {len(column_names)} column names for a table of {len(cells)} rows; expected "
            "one name for every row and column; name each of them"
        )
    sizes = [abs(cell.value) for row in cells for cell in row if cell.value is not None and math.isfinite(cell.value)]
    top = largest or max(sizes, default=0.0) or 1.0
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(_name(name)) for name in column_names)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            _name(name), Markup("").join(_cell(cell, top) for cell in row)
        )
        for name, row in zip(row_names, cells)
    )
    return Markup(
        '<figure><div class="grid" tabindex="0" role="region" aria-label="{}"><table><thead><tr><th>{}</th>{}</tr>'
        "</thead><tbody>{}</tbody></table></div><figcaption>{}</figcaption></figure>"
    ).format(caption, corner, head, body, caption)


def _cell(cell: Cell, top: float) -> Markup:
    is_number = cell.value is not None and math.isfinite(cell.value)
    depth = min(1.0, abs(cell.value or 0.0) / top) * _DEEPEST if is_number else 0.0
    colour = f"rgba({_BLUE if (cell.value or 0.0) > 0 else _ORANGE}, {depth:.2f})"
    letters = Markup(" <i>{}</i>").format(cell.letters) if cell.letters else Markup("")
    framed = Markup(' class="framed-cell"') if cell.framed else Markup("")
    return Markup('<td{} style="background: {}" title="{}">{}{}</td>').format(
        framed, colour, visible(cell.note), _short(cell.value), letters
    )


def _short(value: float | None) -> str:
    """Two decimals, none from a hundred on: the full number is in the records."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.2f}" if abs(value) < 100 else number(round(value))
    return "0.00" if text == "-0.00" else text


def _name(name: str) -> str:
    return clip(visible(name), _LONGEST)
