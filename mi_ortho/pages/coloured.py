"""Text coloured token by token, as plain markup: light enough for hundreds of passages on one page."""

from collections.abc import Sequence

from markupsafe import Markup

from mi_ortho.pages.text import clip, number, visible

_BLUE, _ORANGE = "0, 114, 178", "213, 94, 0"
_DEEPEST = 0.75  # opacity of the strongest colour: text stays readable on it in light and dark
_MAX_TOKEN = 40


def coloured(tokens: Sequence[str], values: Sequence[float], *, largest: float, place: int | None = None) -> Markup:
    """Tokens on blue (positive) or orange (negative), deeper for larger values; the token at `place` is underlined.

    `largest` is the value of the deepest colour. The number appears on hover.
    """
    if len(tokens) != len(values):
        raise ValueError(f"got {len(values)} values for {len(tokens)} tokens; expected one each; pass the tokens read")
    parts = [_token(word, value, largest, k == place) for k, (word, value) in enumerate(zip(tokens, values))]
    return Markup('<pre class="coloured">{}</pre>').format(Markup("").join(parts))


def _token(word: str, value: float, largest: float, strongest: bool) -> Markup:
    depth = min(1.0, abs(value) / max(largest, 1e-9)) * _DEEPEST
    colour = f"rgba({_BLUE if value > 0 else _ORANGE}, {depth:.2f})"
    mark = "; text-decoration: underline; font-weight: 700" if strongest else ""
    text = clip(visible(word), _MAX_TOKEN)
    return Markup('<span style="background: {}{}" title="{}">{}</span>').format(colour, mark, number(value), text)
