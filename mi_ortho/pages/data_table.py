"""A sortable table of any flat rows: searched, filtered and downloaded as CSV by the page's own script."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from mi_ortho.pages.categories import category_colours
from mi_ortho.pages.page import render
from mi_ortho.pages.text import clip, json_script, number, visible

MAX_ROWS = 5000  # rows on a page; records.jsonl keeps all
TEXTS = 500_000  # characters of texts on a page
_LONG = 60  # texts longer than this get a wide column that opens on a click
_SHORT = 4  # a table of at most this many rows is read at a glance: nothing to search or to filter
_FEW = 12  # a text column with at most this many different values can be filtered by value


def table(
    rows: Sequence[Mapping[str, object]],
    columns: Mapping[str, str],
    *,
    name: str = "rows",
    chips: Sequence[str] = (),
    links: Mapping[str, Sequence[str | None]] | None = None,
    unfiltered: Sequence[str] = (),
) -> Markup:
    """A table of `rows`, one column for each key of `columns` under its heading.

    Numbers keep four significant digits, lists are joined, a missing value is a dash. Texts may hold anything: they are
    shown as text, and cut so that all of them stay within half a megabyte.

    Args:
        rows: flat rows; keys not in `columns` are left out.
        columns: key of a row to heading, in the order shown.
        name: what the downloaded file is called.
        chips: columns of few categories, drawn with a colour each.
        links: for columns whose cells open something, the relative address of each row's (None: plain text).
        unfiltered: columns of few different texts that get no choice of their own above the table.
    """
    _check(rows, columns, links or {})
    cells = _cells(rows[:MAX_ROWS], columns)
    by_column = dict(zip(columns, zip(*cells))) if cells else dict.fromkeys(columns, ())
    long = len(cells) > _SHORT
    data = {
        **{"fields": list(columns), "titles": dict(columns), "rows": cells, "name": name, "chips": list(chips)},
        "long": [key for key, values in by_column.items() if _longest(values) > _LONG],
        "links": {key: list(places[:MAX_ROWS]) for key, places in (links or {}).items()},
        "modes": category_colours(_distinct([by_column[key] for key in chips])),
    }
    return render(
        "data_table.html.jinja",
        data=json_script(data),
        filters=[(key, columns[key]) for key in _few(by_column, chips, len(cells)) if long and key not in unfiltered],
        searched=long and any(isinstance(cell, str) for row in cells for cell in row),
        label=name,
        left_out=len(rows) - len(cells),
    )


def _check(
    rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], links: Mapping[str, Sequence[str | None]]
) -> None:
    """Refuse a table without columns, and links that fit no column or lead out of the page's folder."""
    if not columns:
        raise ValueError("got no columns; expected at least one key with its heading; name what the table shows")
    for key, places in links.items():
        if key not in columns or len(places) != len(rows) or any(place and ":" in place for place in places):
            raise ValueError(
                f"got {len(places)} links in column {key!r} for {len(rows)} rows; expected a relative address or None "
                "for each row of a column that is shown; quote the addresses"
            )


def _cells(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> list[list[object]]:
    """What is shown of each row, texts cut so that all of them stay within the page's budget."""
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    texts = [cell for row in cells for cell in row if isinstance(cell, str)]
    limit = text_limit(texts, TEXTS)
    return [[clip(cell, limit) if isinstance(cell, str) else cell for cell in row] for row in cells]


def text_limit(texts: Sequence[str], budget: int) -> int:
    """The longest each text may be so that all of them fit into the budget.

    >>> text_limit(["a" * 10, "b" * 100], 60)
    50
    """
    limits = [4000, 2000, 1000, 500, 300, 200, 150, 100, 70, 50, 30, 20, 1]
    return next((limit for limit in limits if sum(min(len(text), limit) for text in texts) <= budget), limits[-1])


def settings(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as flat pairs of texts, those left at None omitted."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += settings(value, f"{prefix}{key}.")
        elif value is None:
            continue
        elif isinstance(value, list | tuple):
            pairs.append((f"{prefix}{key}", visible(", ".join(str(item) for item in value))))
        else:
            pairs.append((f"{prefix}{key}", visible(value) if isinstance(value, str) else number(value)))
    return pairs


def _cell(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return visible(", ".join(str(item) if isinstance(item, int) else number(item) for item in value))
    return visible(value)


def _few(columns: Mapping[str, Sequence[object]], chips: Sequence[str], rows: int) -> list[str]:
    """The columns of so few different texts that one of them can be chosen."""
    most = {key: _FEW if key in chips else min(_FEW, rows // 2) for key in columns}
    return [key for key, values in columns.items() if 1 < len(_distinct([values])) <= most[key]]


def _distinct(columns: Sequence[Sequence[object]]) -> list[str]:
    """The different short texts of some columns, in order of appearance; none where one is long."""
    texts = list(dict.fromkeys(cell for values in columns for cell in values if isinstance(cell, str)))
    return texts if max(map(len, texts), default=0) <= _LONG else []


def _longest(values: Sequence[object]) -> int:
    return max((len(value) for value in values if isinstance(value, str)), default=0)
