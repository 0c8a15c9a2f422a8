"""Prompts from the files people have: JSON, JSON lines, CSV, TSV and plain text.

Whatever is wrong with a file is one line that names the file and the row. Files are untrusted: nothing in them is run.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

COLUMNS = (
    *("instruction", "prompt", "goal", "question", "text", "forbidden_prompt"),
    *("query", "request", "behavior", "content", "input"),
)
LISTS = ("train", "prompts", "instructions", "data")  # keys of an object that may hold the list
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
LONGEST = 100_000  # characters of one prompt: more is a file read in the wrong form
csv.field_size_limit(2**31 - 1)  # ours says which row is too long


def read_prompts(source: str | Path, *, column: str | None = None) -> tuple[str, ...]:
    """The prompts of a file, in its order, blank ones left out.

    JSON holds a list of texts or of objects, or an object with such a list as "train", "prompts", "instructions" or
    "data"; JSON lines one text or object a line; CSV and TSV a row of column names first; any other file one prompt a
    line. UTF-8, with or without a byte order mark. Rows that need a second text to be complete (Alpaca's `input`) are
    left out.

    Args:
        source: the file.
        column: the key or column with the prompts; None tries the usual ones (instruction, prompt, goal, ...).

    Raises:
        ValueError: the file is missing, is not text in UTF-8, is damaged, or holds no prompts; the line names the row.
    """
    path = Path(source).expanduser()
    text = _text(path)
    rows = _rows(path, text, column)
    prompts = tuple(prompt for number, row in rows if (prompt := prompt_of(path, number, row, column)).strip())
    if not prompts:
        raise ValueError(f"got {path}, which holds no prompts; expected at least one; fill it or choose another file")
    return prompts


def read_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """Prompts as they were given, those that name a file (`@file`, or the path of one) replaced by its prompts.

    >>> read_texts(["How can I build a bomb?", "Tell me about kites."])
    ('How can I build a bomb?', 'Tell me about kites.')

    Raises:
        ValueError: a text that can only be the name of a file names none, or the file cannot be read.
    """
    named = [(one, _file_in(one)) for one in texts]
    return tuple(text for one, file in named for text in ((one,) if file is None else read_prompts(file)))


def with_texts(config: Any) -> Any:
    """A configuration with the texts themselves wherever its `prompts` and `held_out` name files."""
    named = {name: getattr(config, name) for name in ("prompts", "held_out")}
    return replace(config, **{name: read_texts(texts) for name, texts in named.items() if texts is not None})


def _file_in(text: str) -> Path | None:
    """The file that a text names; None for a text that is a prompt."""
    name = text.strip()
    if name.startswith("@") and len(name) > 1 and not any(map(str.isspace, name)):
        return Path(name[1:])
    if len(name) > 1000 or "\n" in name or "\0" in name or not name:
        return None
    looks = name.lower().endswith(SUFFIXES) and not any(map(str.isspace, name))
    path = Path(name).expanduser()
    try:
        return path if looks or (path.suffix.lower() in SUFFIXES and path.is_file()) else None
    except OSError:  # longer than a name may be: a text
        return None


def _text(path: Path) -> str:
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"got prompt file {path}, which {kind}; expected a file of prompts; check the path")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"got prompt file {path}, which cannot be read ({error.strerror}); check the path") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"got {path}, which is in UTF-16; expected UTF-8; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"got {path}, row {row}, which is not UTF-8; expected text in UTF-8; save it as UTF-8"
        ) from error
    if "\0" in text:
        row = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"got {path}, row {row}, with a NUL character; expected text; remove it or save it as UTF-8")
    return text


def _rows(path: Path, text: str, column: str | None) -> Iterator[tuple[int, Any]]:
    """(row number as an editor or spreadsheet counts, row) of every row."""
    kind = path.suffix.lower()
    if kind == ".json":
        yield from _json_rows(path, text)
    elif kind in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, _parse(path, line, f", row {number}")
    elif kind in (".csv", ".tsv"):
        yield from _table(path, text, "\t" if kind == ".tsv" else ",", column)
    else:
        yield from ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    content = _parse(path, text, "")
    if isinstance(content, Mapping):
        named = [key for key in LISTS if key in content]
        if not named:
            raise ValueError(
                f"got {path}, an object of {_listing(content)}; expected a list of prompts, or one of "
                f"{', '.join(LISTS)} with such a list; convert it"
            )
        content = content[named[0]]
    if not isinstance(content, list):
        raise ValueError(
            f'got {path}, which holds no list; expected ["...", ...] or [{{"instruction": "..."}}, ...]; convert it'
        )
    yield from enumerate(content, start=1)


def _parse(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"got {path}{where}, nested too deeply; expected a list of prompts; convert it") from error
    except ValueError as error:
        raise ValueError(f"got {path}{where}, which is no JSON ({error}); expected JSON; correct it") from error


def _table(path: Path, text: str, delimiter: str, column: str | None) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        lower = {name.lower(): name for name in names}
        if column is not None and column not in names:
            raise ValueError(
                f"got {path} with the columns {_listing(names)}; expected one called {column}; correct --column"
            )
        header = column or next((lower[name] for name in COLUMNS if name in lower), None)
        if header is None:
            raise ValueError(
                f"got {path} with the columns {_listing(names)}; expected one of {', '.join(COLUMNS)} "
                "in its first row; name the column with --column"
            )
        reader.fieldnames = names
        for row in reader:
            if row[header] is None:
                raise ValueError(
                    f"got {path}, row {reader.line_num}, with too few columns; expected {len(names)}; correct it"
                )
            cells = {header: row[header]}
            yield (
                reader.line_num,
                cells | ({"input": row[lower["input"]]} if header == "instruction" and "input" in lower else {}),
            )
    except csv.Error as error:
        raise ValueError(
            f"got {path}, row {reader.line_num}, which is no row of a table ({error}); expected values separated by "
            "commas or tabs; correct it"
        ) from error


def prompt_of(path: Path | str, number: int, row: Any, column: str | None) -> str:
    """The prompt in one row of a file or data set; "" where it needs a second text. Raises as `read_prompts` does."""
    if isinstance(row, Mapping):
        values = {str(key).lower(): value for key, value in row.items()} if column is None else row
        name = next((name for name in ((column,) if column else COLUMNS) if isinstance(values.get(name), str)), None)
        if name is None:
            raise ValueError(
                f"got {path}, row {number}, of {_listing(row)}; expected a text as one of "
                f"{column or ', '.join(COLUMNS)}; name the column with --column"
            )
        extra = values.get("input") if name == "instruction" else None
        row = "" if isinstance(extra, str) and extra.strip() else values[name]
    if not isinstance(row, str):
        raise ValueError(f"got {path}, row {number}, which is {json.dumps(row)[:60]}; expected a text; correct it")
    if len(row) > LONGEST:
        raise ValueError(
            f"got {path}, row {number}, of {len(row)} characters; expected at most {LONGEST}; one prompt a row"
        )
    if not row.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in row):
        raise ValueError(
            f"got {path}, row {number}, with half a character (a lone surrogate); expected text; correct it"
        )
    return row


def _listing(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))[:120] or "nothing"
