"""What of a completion is judged: the answer without the reasoning before it, cut to a bounded length, and its fences.

Every rule sees at most `JUDGED` characters and takes time in proportion to them, whatever a model writes.
"""

import re

JUDGED = 4_000  # characters of an answer that rules look at: some 1,000 tokens
_TAG = r"think|thinking|thought|thoughts|reasoning|reflection|seed:think"
_OPEN = re.compile(rf"<(?:{_TAG})>|\[THINK\]|◁think▷", re.IGNORECASE)
_CLOSE = re.compile(rf"</(?:{_TAG})>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_FENCE = re.compile(r"`{3,}|~{3,}")
_LABEL = re.compile(r"[ \t]*([A-Za-z0-9_+#.-]*)[ \t]*(\n)?")
PYTHON = frozenset({"python", "py", "python3", "py3", "pycon", "ipython"})
_LANGUAGES = """
bash sh shell zsh fish powershell ps1 bat batch cmd c h cpp c++ cxx cc cs csharp c# d dart go golang rust rs java kotlin
kt scala swift objectivec objective-c js javascript jsx ts typescript tsx node php perl pl ruby rb lua r julia jl matlab
octave fortran pascal delphi ada cobol basic vb vba haskell hs ocaml ml fsharp f# elixir ex erlang erl clojure clj lisp
scheme racket elm nim zig solidity sql mysql postgresql sqlite plsql html css scss sass less asm assembly nasm makefile
make cmake dockerfile docker terraform hcl graphql glsl cuda verilog vhdl awk sed processing arduino applescript groovy
gdscript wasm latex tex
"""
_TEXTS = "json json5 jsonc jsonl yaml yml toml xml csv tsv ini text txt plain plaintext markdown md"
LANGUAGES, TEXTS = PYTHON | frozenset(_LANGUAGES.split()), frozenset(_TEXTS.split())


def answer_span(text: str) -> tuple[int, int]:
    """Where the answer begins and ends: after the last closing reasoning tag, before an opening one that stays open.

    A closing tag alone counts too: many chat templates write the opening one into the prompt.

    >>> text = "<think>I can't.</think>Sure."
    >>> text[slice(*answer_span(text))]
    'Sure.'
    """
    start = max((tag.end() for tag in _CLOSE.finditer(text)), default=0)
    opened = _OPEN.search(text, start)
    return start, opened.start() if opened else len(text)


def answer_of(text: str) -> str:
    """The judged part of a completion: its answer without reasoning, at most `JUDGED` characters.

    >>> answer_of("<think>Should I?"), answer_of("Yes.")
    ('', 'Yes.')
    """
    start, end = answer_span(text)
    return text[start : min(end, start + JUDGED)].replace("\r\n", "\n").replace("\r", "\n")


def fences(text: str) -> list[tuple[str, str]]:
    """Label (lower case, empty without one) and inside of every Markdown fence; the last may be left open.

    >>> fences("Here: ```python\\nx = 1\\n``` and ```y```")
    [('python', 'x = 1\\n'), ('', 'y')]
    """
    return [_split_label(part) for part in _FENCE.split(text)[1::2]]


def _split_label(part: str) -> tuple[str, str]:
    match = _LABEL.match(part)
    label = match.group(1).lower() if match else ""
    if match and (match.group(2) is not None or label in LANGUAGES | TEXTS):
        return label, part[match.end() :]
    return "", part


def before_fences(text: str) -> str:
    """What stands before the first fence: the whole text where there is none."""
    return _FENCE.split(text, maxsplit=1)[0]


def without_fence(text: str) -> str:
    """The inside of the first Markdown fence, closed or not; the text itself where there is none.

    >>> without_fence("Here:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1'
    """
    parts = fences(text)
    return parts[0][1].removesuffix("\n") if parts else text
