"""Whether an answer is code. Python is parsed, other languages are taken by the label of their fence.

The grammar is one fixed version of Python's, read by parso: the Python that judges decides nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from textwrap import dedent
from typing import Any

from parso.grammar import load_grammar
from parso.parser import ParserSyntaxError

from mi_ortho.behaviours.answers import JUDGED, LANGUAGES, PYTHON, TEXTS, answer_of, before_fences, fences

GRAMMAR = "3.13"
STARTS = 4  # lines at which code after prose is looked for
_STATEMENTS = ("funcdef", "classdef", "import_name", "import_from", "for_stmt")
_START = re.compile(
    r"[ \t]*(?:(?:async[ ]+)?def[ ]+\w+[ ]*\(|class[ ]+\w+[ ]*[(:]|import[ ]+[\w.]+[ \t]*(?:$|,|as\b)|"
    r"from[ ]+[\w.]+[ ]+import\b|@\w|for[ ]+\w[\w, ]*[ ]in[ ]|\w+[ ]*=[^=])"
)
_OPEN_STRING = re.compile(r"[rbuRBU]{0,2}(\"\"\"|'''|\"|')")
# what parso's grammars lack (soft keywords, exception groups) is read as the statement of the same form that they have
_SOFT = (
    (re.compile(r"^([ \t]*)(?:match|case)\b(?=[^\n]*:[ \t]*(?:$|\#|\S))(?![ \t]*[=.,)\]:])", re.MULTILINE), r"\1with"),
    (re.compile(r"^([ \t]*)type[ ]+(?=\w+[ ]*[=\[])", re.MULTILINE), r"\1"),
    (re.compile(r"^([ \t]*)except[ ]*\*", re.MULTILINE), r"\1except "),
)
_BLOCK = re.compile(r"[;{}]\s*$")
_UNFENCED = re.compile(
    r"^[ \t]*(?:\#include[ ]*[<\"]\w|\#!/\w|\#define[ ]\w|using[ ]namespace[ ]\w|<!DOCTYPE[ ]html|"
    r"</?(?:html|head|body|div|h[1-6]|p|ul|ol|table|script|style)(?:[ ][^>\n]{0,200})?>|"
    r"(?:public|private|static)[ ](?:static[ ]|final[ ])?(?:class|void|int|String)[ ]\w+|"
    r"(?:int|void|double|float|char)[ ]\w+[ ]?\([^)\n]{0,200}\)[ ]?\{|"
    r"function[ ]\w*[ ]?\([^)\n]{0,200}\)[ ]?\{|(?:const|let|var)[ ]\w+[ ]?=[ ]?\S|"
    r"(?:SELECT[ ][^\n]{1,200}[ ]FROM|INSERT[ ]INTO|CREATE[ ]TABLE|UPDATE[ ]\w+[ ]SET|DELETE[ ]FROM)[ ]\w)",
    re.MULTILINE,
)
_BRACED = re.compile(r";\s*$|\)\s*\{\s*$")


@dataclass(frozen=True)
class Parse:
    """How far a text is Python.

    Attributes:
        lines: not blank.
        complete: of them, those before the first statement that is wrong or unfinished.
        cut: the whole text can go on to a program: nothing is wrong but that it ends.
        statement: a definition, import, loop or assignment is among the complete ones.
        definition: a function or class with its body is.
        header: a definition is begun, as far as its name and the sign after it.
        assignment: a line begins with a name and an equals sign.
        call: something is called.
    """

    lines: int
    complete: int
    cut: bool = False
    statement: bool = False
    definition: bool = False
    header: bool = False
    assignment: bool = False
    call: bool = False

    @property
    def half(self) -> bool:
        """At least half of the lines are complete."""
        return 2 * self.complete >= self.lines > 0


def is_code(text: str) -> bool:
    """Whether an answer holds code: Python, a fence of another language, or a line that only a program has.

    >>> is_code("```js\\nlet a = 1;\\n```"), is_code("x = 1"), is_code("Write a class for a kite.")
    (True, True, False)
    """
    answer = answer_of(text)
    return (
        is_python(answer)
        or any(_other_language(label, inside) for label, inside in fences(answer))
        or _UNFENCED.search(before_fences(answer)) is not None
    )


def is_python(text: str) -> bool:
    """Whether an answer holds Python: fenced, bare, or after prose, and possibly cut off anywhere.

    Bare, the longest run of complete leading statements must be at least half of the lines and contain a definition,
    import, loop or assignment; a definition with its body is enough by itself, and so is one that the end of the text
    cuts off. English words parse as Python names, hence these conditions. In a fence a call is enough.

    >>> is_python("class Kite:\\n    size = 3\\n    def fly(self):\\n        return (")
    True
    >>> is_python("Here it is:\\n```python\\ndef build(kite"), is_python("kite"), is_python("Use def to define it.")
    (True, False, False)
    """
    answer = answer_of(text)
    others = (LANGUAGES | TEXTS) - PYTHON
    inside = [(label, parse(part)) for label, part in fences(answer) if label not in others]
    # a definition that goes wrong is one still where the fence says Python
    return any(_fenced(part) or (label in PYTHON and part.header) for label, part in inside) or _bare(
        before_fences(answer)
    )


def compiles(source: str) -> bool:
    """Whether `source` is a complete Python text, its names and places of `return` and the like included.

    >>> compiles("x = 1"), compiles("x = ("), compiles("def f(a, a): pass")
    (True, False, False)
    """
    source = _in_grammar(source)
    if len(source) > JUDGED or _first_error(source) is not None:
        return False
    try:
        return not any(issue.code >= 900 for issue in _grammar().iter_errors(_grammar().parse(source)))
    except RecursionError:
        return False


def _fenced(parsed: Parse) -> bool:
    evidence = parsed.statement or parsed.header or parsed.assignment or parsed.call
    return parsed.definition or ((parsed.cut or parsed.half) and evidence)


def _bare(text: str) -> bool:
    parsed = parse(text)
    if parsed.definition or (parsed.cut and (parsed.header or parsed.assignment)) or (parsed.half and parsed.statement):
        return True
    lines = text.splitlines()
    starts = [index for index, line in enumerate(lines) if _START.match(line)][:STARTS]
    return any(_after_prose(parse("\n".join(lines[index:]))) for index in starts)


def _after_prose(parsed: Parse) -> bool:
    """More is asked of lines after prose: a definition, or two complete statements."""
    two = parsed.half and parsed.statement and parsed.complete >= 2
    return parsed.definition or (parsed.cut and parsed.header) or two


def _other_language(label: str, inside: str) -> bool:
    if label in LANGUAGES - PYTHON:
        return bool(inside.strip())
    lines = [line for line in inside.splitlines() if line.strip()]
    braced = sum(_BLOCK.search(line) is not None for line in lines)
    return label not in LANGUAGES | TEXTS and 2 * braced >= len(lines) and any(map(_BRACED.search, lines))


def parse(source: str) -> Parse:
    """How far `source` is Python; indentation that all lines share is left out."""
    source = _in_grammar(dedent(source.expandtabs().replace("\f", " ")).strip("\n").rstrip())
    lines = source.split("\n")
    total = sum(bool(line.strip()) for line in lines)
    error = _first_error(source)
    if error is None:
        return _parse(source, total, cut=False)
    if _is_cut(source, lines, error):
        return _parse(source, total, cut=True)
    # a wrong token: what stands in the lines before it is judged
    return _parse("\n".join(lines[: error[0] - 1]), total, cut=False)


def _in_grammar(source: str) -> str:
    """The text in the statements that the grammar has, line for line."""
    for pattern, statement in _SOFT:
        source = pattern.sub(statement, source)
    return source


def _parse(source: str, total: int, cut: bool) -> Parse:
    leaves, statements, definitions, calls = [], [], [], []
    broken = source.count("\n") + 2
    for node in _nodes(_grammar().parse(source)):
        line = node.line if hasattr(node, "line") else node.get_first_leaf().line
        if node.type in ("error_node", "error_leaf"):
            broken = min(broken, line)
        elif node.type in _STATEMENTS or node.type == "expr_stmt" and _assigns(node):
            statements.append(line)
            if node.type in ("funcdef", "classdef") and node.children[-1].type == "suite":
                definitions.append(line)
        if hasattr(node, "line"):
            calls += [line] if node.value == "(" and leaves and leaves[-1][0] in ("name", ")", "]") else []
            leaves.append((node.type if node.type == "name" else node.value, line))
    kinds = [kind for kind, _ in leaves]
    header = any(
        a in ("def", "class") and b == "name" and c in ("(", ":") for a, b, c in zip(kinds, kinds[1:], kinds[2:])
    )
    assignment = any(
        b[0] == "=" and a[0] == "name" and a[1] != before[1]
        for before, a, b in zip([("", 0), *leaves], leaves, leaves[1:])
    )
    complete = sum(bool(line.strip()) for line in source.split("\n")[: broken - 1])
    return Parse(
        total,
        complete,
        cut,
        any(line < broken for line in statements),
        any(line < broken for line in definitions),
        header,
        assignment,
        cut and bool(calls) or any(line < broken for line in calls),
    )


def _assigns(node: Any) -> bool:
    """An assignment; an annotation without a value is none (`Note: done`), nor one to a number or sum (`3 = 3`)."""
    second = node.children[1]
    if second.type != "annassign":
        return node.children[0].type not in ("number", "arith_expr", "term", "factor")
    return "=" in [getattr(child, "value", "") for child in second.children] and second.children[1].type in (
        *("name", "atom_expr", "power", "string", "expr"),
    )


def _nodes(tree: Any) -> Iterator[Any]:
    """Every node in the order of the text, without recursion: foreign text nests as deep as it likes."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        stack += reversed(getattr(node, "children", ()))


def _first_error(source: str) -> tuple[int, int, str] | None:
    """Line (from 1), column and text of the first token that no program goes on with; None for a program."""
    try:
        _grammar().parse(source, error_recovery=False)
    except ParserSyntaxError as error:
        leaf = error.error_leaf
        return leaf.line, leaf.column, leaf.value
    return None


def _is_cut(source: str, lines: list[str], error: tuple[int, int, str]) -> bool:
    line, column, value = error
    position = sum(len(text) + 1 for text in lines[: line - 1]) + column
    if not source[position:].strip():
        return True
    opened = _OPEN_STRING.match(value)
    if opened is None or (len(opened.group(1)) == 1 and "\n" in source[position:]):
        return False
    # an unfinished string is the only error if a finished one in its place is none
    rest = _first_error(source[:position] + "''")
    return rest is None or not rest[2].strip()


@lru_cache(maxsize=1)
def _grammar() -> Any:
    return load_grammar(version=GRAMMAR)
