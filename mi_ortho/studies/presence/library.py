"""Real text: functions of the Python standard library, their docstrings, and other prose.

Read from the installed Python; nothing is copied into this package.
"""

import ast
import inspect
import random
import re
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
LEAST_WORDS, LEAST_LINES = 20, 5  # of a docstring and of a body; shorter ones say too little
_LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "idlelib", "turtledemo", "pydoc_data", "lib2to3"}


@dataclass(frozen=True)
class Pair:
    """One function: its code without docstring, and what the docstring says in English."""

    name: str
    code: str
    english: str


def library_pairs(n: int, seed: int, folder: Path | None = None) -> list[Pair]:
    """Up to n functions of the standard library with an English docstring, from files in random order.

    Raises:
        ValueError: the folder holds fewer than 4 of them.
    """
    root = standard_library(folder)
    files = sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts[:-1]))
    pairs: list[Pair] = []
    for path in _shuffled(files, seed):
        pairs += _spread(_pairs(path, root), 3, seed)  # a few of each file, so that no file dominates
        if len(pairs) >= n:
            break
    if len(pairs) < 4:
        raise ValueError(
            f"got {len(pairs)} documented functions under {root}; expected at least 4; install Python's "
            "standard library with its sources"
        )
    return pairs[:n]


def library_prose(n: int, seed: int, folder: Path | None = None) -> list[str]:
    """Up to n paragraphs of English: from the language reference and licence if installed, and module docstrings."""
    root = standard_library(folder)
    texts = [path.read_text("utf-8", "replace") for path in sorted(root.glob("LICENSE*"))]
    topics = root / "pydoc_data" / "topics.py"
    texts += _strings(topics) if topics.is_file() else []
    prose = [paragraph for text in texts for paragraph in paragraphs(text)]
    if len(prose) < n:
        modules = [ast.get_docstring(tree) or "" for path in sorted(root.glob("*.py")) if (tree := _parse(path))]
        prose += [paragraph for text in modules for paragraph in paragraphs(text)]
    if len(prose) < 4:
        raise ValueError(
            f"got {len(prose)} paragraphs of prose under {root}; expected at least 4; install Python's "
            "standard library with its sources"
        )
    return _shuffled(prose, seed)[:n]


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text that read as English: no indented blocks, no prompts, no grammar, enough words.

    >>> paragraphs("x = 1\\n\\n   indented\\n\\n" + "word " * 24)[0][:9], len(paragraphs(">>> f(x)"))
    ('word word', 0)
    """
    texts = []
    for block in re.split(r"\n\s*\n", text):
        words = block.split()
        code = re.search(r"^\s{3,}|>>>|::|[{}\[\]=]|->|\w\(", block, re.MULTILINE)
        if len(words) >= LEAST_WORDS and not code and sum(word.isalpha() for word in words) > len(words) / 2:
            texts.append(" ".join(words))
    return texts


def standard_library(folder: Path | None = None) -> Path:
    """The folder of Python's own modules. Raises ValueError when there is none."""
    root = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    if not root.is_dir():
        raise ValueError(f"got {root}, which is no folder; expected Python's standard library; give another folder")
    return root


def _pairs(path: Path, root: Path) -> Iterator[Pair]:
    tree = _parse(path)
    lines = path.read_text("utf-8", "replace").splitlines() if tree else []
    for node in ast.walk(tree) if tree else ():
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        english = " ".join(paragraph for paragraph in paragraphs(inspect.cleandoc(ast.get_docstring(node) or "")))
        if english and len(node.body) > 1 and (node.end_lineno or 0) - (node.body[0].end_lineno or 0) >= LEAST_LINES:
            kept = lines[node.lineno - 1 : node.body[0].lineno - 1] + lines[node.body[0].end_lineno : node.end_lineno]
            name = f"{path.relative_to(root).as_posix()}: {node.name}"
            yield Pair(name, textwrap.dedent("\n".join(kept)), english)


def _parse(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None


def _strings(path: Path) -> list[str]:
    """Every string of a file of data."""
    tree = _parse(path)
    nodes = ast.walk(tree) if tree else ()
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _spread(pairs: Iterator[Pair], most: int, seed: int) -> list[Pair]:
    return _shuffled(list(pairs), seed)[:most]


def _shuffled(items: Sequence[T], seed: int) -> list[T]:
    return random.Random(seed).sample(list(items), len(items))
