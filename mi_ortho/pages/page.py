"""One self-contained HTML page: sections, one style, one script, the CircuitsVis bundle only where one needs it."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from mi_ortho.pages.embed import bundle
from mi_ortho.pages.text import clip, json_script, number, visible
from mi_ortho.runs.files import write_file

_HERE = Path(__file__).parent
_STATIC = _HERE / "static"
_ELSEWHERE: ContextVar[Path | None] = ContextVar("elsewhere", default=None)
_CIRCUITS = 'data-component="(?!Heads|Compare|Logits)'  # visuals that need the CircuitsVis bundle

LARGE = 2  # sentences of a headline that are shown large: what was found, and what the control gave


@dataclass(frozen=True)
class Section:
    """A part of a page: heading, body, a sentence below the heading; with `anchor` the top links it as `short`."""

    title: str
    body: Markup
    lead: str = ""
    anchor: str = ""
    short: str = ""


def page(
    title: str,
    sections: Sequence[Section],
    *,
    headline: str = "",
    kicker: str = "",
    data: Mapping[str, object] | None = None,
    bare: bool = False,
    links: Sequence[tuple[str, str]] = (),
) -> Markup:
    """The whole page as text. It asks the network for nothing and allows no script but its own.

    `data` reaches the page's script as JSON; `bare` leaves out the header and the navigation (for a single visual);
    `links` (anchor, name) stand before the sections in the navigation, for headings inside a section.
    """
    body = Markup("").join(section.body for section in sections)
    scripts = [Markup(code) for code in ([bundle()] if re.search(_CIRCUITS, body) else []) + [_script()]]
    style = Markup(_asset("style.css"))
    return render(
        "page.html.jinja",
        title=title,
        sections=sections,
        headline=finding(headline),
        kicker=kicker,
        bare=bare,
        links=links,
        scripts=scripts,
        style=style,
        data=json_script(dict(data or {}), id="data"),
        policy=_policy(scripts, style),
    )


def finding(headline: str) -> tuple[str, str]:
    """A headline in two parts: its first sentences, shown large, and what else is to be said of them.

    >>> finding("4 of 9 vectors do it. Of random ones, 1 does. 3 lie at the norm cap. The family ends at index 5.")
    ('4 of 9 vectors do it. Of random ones, 1 does.', '3 lie at the norm cap. The family ends at index 5.')
    """
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", headline)
    return " ".join(sentences[:LARGE]), " ".join(sentences[LARGE:])


def write_page(path: Path, text: str) -> Path:
    """Replace `path`, or the file named by `written_to`, by a page, whole or not at all."""
    path = _ELSEWHERE.get() or path
    write_file(path, text)
    return path


@contextmanager
def written_to(path: Path | None) -> Iterator[None]:
    """The page written inside goes to `path`, whatever asks for it; None changes nothing."""
    token = _ELSEWHERE.set(path)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


def render(template: str, **values: object) -> Markup:
    """A template of this package, every value escaped unless it is markup already."""
    return Markup(_templates().get_template(template).render(values))


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(_HERE / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible, "number": number, "clip": clip}
    return environment


@cache
def _asset(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """The page's own script: one function around all its parts, in the order of their names."""
    parts = [path.read_text(encoding="utf-8") for path in sorted((_STATIC / "script").glob("*.js"))]
    return "(() => {\n'use strict';\n" + "\n".join(parts) + "})();\n"


def _policy(scripts: Sequence[str], style: str) -> str:
    """The content security policy: nothing loads, only these scripts and this style run."""
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; style-src-attr 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
