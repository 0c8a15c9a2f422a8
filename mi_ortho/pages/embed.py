"""CircuitsVis visuals that work offline, several on a page, with any text in their tokens.

CircuitsVis sets tokens as HTML and loads its code from a network by default. Here its bundle is read from the installed
package once per page, properties travel as escaped JSON, and a word joiner after `<` and `&` keeps tokens text.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import einops
import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_ortho.pages.text import clip, json_script, visible

NEGATIVE, POSITIVE = "#b2550f", "#08519c"  # orange and blue: told apart by every kind of colour vision
_MAX_CELLS = 64 * 64 * 8  # above this CircuitsVis takes seconds to draw; a canvas of this package takes over
_MAX_TOKEN = 40


@dataclass(frozen=True)
class Visual:
    """One drawing for a page: a component of CircuitsVis or of this package ("Heads", "Compare", "Logits")."""

    component: str
    props: Mapping[str, object]
    title: str = ""

    def __html__(self) -> str:
        """The element for a page of `page`; the page's script draws it."""
        label = self.title or self.component
        holder = Markup(
            '<div class="visual" role="img" aria-label="{}" data-component="{}"><div class="drawing"></div>{}</div>'
        )
        return holder.format(label, self.component, json_script(self.props))

    def _repr_html_(self) -> str:
        """For Jupyter, Colab and VS Code: a frame with a whole offline page inside.

        The frame may run the page's own scripts and nothing else: it reaches neither the notebook nor a network.
        """
        from mi_ortho.pages.page import Section, page

        inside = page(self.title or "Visual", [Section("", Markup("{}").format(self))], bare=True)
        frame = (
            '<iframe sandbox="allow-scripts" srcdoc="{}" style="width:100%;height:{}px;border:0" title="{}"></iframe>'
        )
        return Markup(frame).format(str(inside), self.height, self.title or self.component)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook asks for first: the frame, and one line for places without HTML."""
        return {"text/html": self._repr_html_(), "text/plain": f"{self.component}: {self.title}".rstrip(": ")}

    @property
    def height(self) -> int:
        """Pixels a frame needs to show it without much scrolling."""
        tokens = len(self._list("tokens"))
        if self.component == "ColoredTokens":
            lines = sum(1 + len(line) // 60 for line in "".join(map(str, self._list("tokens"))).split("\n"))
            return min(900, 50 + (24 * lines + 22) * max(1, len(self._list("values"))))
        if self.component == "Compare":
            return min(1000, 80 + 172 * len(self._list("rows")))
        if self.component == "Heads":
            return min(1200, 630 + 172 * -(-len(self._list("heads")) // 5))
        longest = min(40, max((len(str(token)) for token in self._list("tokens")), default=0))
        return 420 + 4 * tokens // 10 if self.component == "Logits" else 790 + 5 * longest

    def _list(self, name: str) -> Sequence[object]:
        value = self.props.get(name)
        return value if isinstance(value, Sequence) else ()


def attention(
    tokens: Sequence[str],
    patterns: Float[Tensor, "head query_pos key_pos"],
    *,
    title: str = "",
    head_names: Sequence[str] | None = None,
) -> Visual:
    """Attention of each head, queries down and keys across; zero is white, differences (negative values) are orange.

    Up to 64 tokens × 8 heads CircuitsVis draws it; larger patterns go to a canvas of this package, read the same way.
    """
    if patterns.shape[1:] != (len(tokens), len(tokens)):
        raise ValueError(
            f"got patterns of shape {tuple(patterns.shape)} for {len(tokens)} tokens; expected head × tokens × "
            "tokens; pass the tokens it was read on"
        )
    names = list(head_names or (f"Head {head}" for head in range(patterns.shape[0])))
    safe_tokens = [safe_token(token) for token in tokens]
    values = patterns.detach().float().cpu().nan_to_num(0.0)
    largest = max(values.abs().max().item(), 1e-6) if values.min() < 0 else 1.0
    if values.numel() > _MAX_CELLS:
        packed = {"heads": names, "tokens": safe_tokens, "max": largest, "data": _bytes(values / largest)}
        return Visual("Heads", packed, title)
    props = {
        "attention": _round(values),
        "tokens": safe_tokens,
        "attentionHeadNames": names,
        "minValue": -largest,
        "maxValue": largest,
    }
    return Visual("AttentionHeads", props | {"negativeColor": NEGATIVE, "positiveColor": POSITIVE}, title)


def compare(
    tokens: Sequence[str],
    patterns: Mapping[str, Float[Tensor, "head query_pos key_pos"]],
    *,
    title: str = "",
) -> Visual:
    """Attention under several conditions, one row each and one column a head, then each row's difference to the first.

    Attention runs from white (0) to blue (1), differences from orange (less) to blue (more) on one common scale.
    """
    shapes = {tuple(values.shape) for values in patterns.values()}
    if len(shapes) != 1 or next(iter(shapes))[1:] != (len(tokens), len(tokens)):
        raise ValueError(
            f"got patterns of shapes {sorted(shapes)} for {len(tokens)} tokens; expected one shape, "
            "head × tokens × tokens; pass the tokens these patterns were read on"
        )
    values = {visible(name): value.detach().float().cpu().nan_to_num(0.0) for name, value in patterns.items()}
    first = next(iter(values))
    changes = {f"{name} − {first}": value - values[first] for name, value in values.items() if name != first}
    largest = max([1e-6, *(value.abs().max().item() for value in changes.values())])
    rows = [{"name": name, "data": _bytes(value), "max": 1.0} for name, value in values.items()]
    rows += [{"name": name, "data": _bytes(value / largest), "max": largest} for name, value in changes.items()]
    return Visual(
        "Compare", {"tokens": [safe_token(t) for t in tokens], "heads": next(iter(shapes))[0], "rows": rows}, title
    )


def token_values(
    tokens: Sequence[str],
    values: Float[Tensor, " pos"] | Float[Tensor, "pos n"],
    labels: Sequence[str] | None = None,
    *,
    title: str = "",
) -> Visual:
    """Tokens coloured by their value, once for each of n values; white is zero, blue positive, orange negative."""
    if values.shape[0] != len(tokens):
        raise ValueError(
            f"got {values.shape[0]} rows of values for {len(tokens)} tokens; expected one row a token; "
            "pass the tokens the values belong to"
        )
    columns = values.detach().float().cpu()
    columns = einops.rearrange(columns, "pos -> pos 1") if columns.ndim == 1 else columns
    names = list(labels) if labels is not None else [str(k) for k in range(columns.shape[1])]
    if len(names) != columns.shape[1]:
        raise ValueError(
            f"got {len(names)} labels for {columns.shape[1]} values; expected one label a value; "
            "leave labels out or name every column"
        )
    largest = max(columns.nan_to_num(0.0).abs().max().item(), 1e-6)
    safe_tokens = [safe_token(token) for token in tokens]
    props = {
        "tokens": safe_tokens,
        "values": _round(einops.rearrange(columns, "pos n -> n pos")),
        "labels": [safe_token(n) for n in names],
    }
    colours = {"minValue": -largest, "maxValue": largest, "negativeColor": NEGATIVE, "positiveColor": POSITIVE}
    return Visual("ColoredTokens", props | colours, title)


def logits(
    tokens: Sequence[str],
    predicted: Float[Tensor, "pos d_vocab"],
    decode: Callable[[int], str],
    *,
    ids: Sequence[int] | None = None,
    k: int = 5,
    title: str = "",
) -> Visual:
    """A text whose every token opens the k most probable next tokens at that place, with their probabilities.

    Args:
        tokens: the text, token by token.
        predicted: logits of the token after each.
        decode: a token id as text, such as `lambda t: model.tokenizer.decode([t])`.
        ids: the tokens' own ids; with them each token is coloured by the probability it had.
        k: how many predictions to show at each place.
        title: above the drawing.
    """
    if predicted.shape[0] != len(tokens) or (ids is not None and len(ids) != len(tokens)) or k < 1:
        id_count = "no" if ids is None else str(len(ids))
        raise ValueError(
            f"got logits of {predicted.shape[0]} places, {id_count} ids and k={k} for {len(tokens)} tokens; expected "
            "one row of logits and one id a token, and k at least 1; pass the tokens the logits were read on"
        )
    shares = predicted.detach().float().cpu().softmax(-1)
    best = shares.topk(min(k, shares.shape[-1]), dim=-1)
    top = [
        [[clip(visible(decode(token)), _MAX_TOKEN), round(share, 4)] for token, share in zip(row, values)]
        for row, values in zip(best.indices.tolist(), best.values.tolist())
    ]
    probabilities = (
        None if ids is None else [None, *(float(shares[at, token]) for at, token in enumerate(list(ids)[1:]))]
    )
    words = [clip(visible(token), _MAX_TOKEN) for token in tokens]
    return Visual("Logits", {"tokens": words, "top": top, "own": probabilities}, title)


def safe_token(token: str) -> str:
    """A token as CircuitsVis can show it: markup inert, line breaks and control characters visible, cut if long."""
    return clip(visible(token), _MAX_TOKEN).replace("\n", "\u21b5\n").replace("&", "&\u2060").replace("<", "<\u2060")


@cache
def bundle() -> str:
    """The code of the installed CircuitsVis as a classic script that may stand inside a page."""
    spec = find_spec("circuitsvis")
    if spec is None or spec.origin is None:
        raise ValueError("circuitsvis is not installed; expected the package circuitsvis; install it with pip")
    code = (Path(spec.origin).parent / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    lines = [line for line in code.replace("\r", "").split("\n") if not line.startswith("//# sourceMappingURL")]
    return "\n".join(lines).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _round(values: Tensor) -> list[object]:
    """Nested lists with four decimals; NaN becomes null on the page."""
    return torch.round(values.double(), decimals=4).tolist()


def _bytes(values: Float[Tensor, "head query_pos key_pos"]) -> str:
    """Values in [-1, 1] as one byte each, base64."""
    return base64.b64encode(((values.clamp(-1, 1) + 1) * 127).round().to(torch.uint8).numpy().tobytes()).decode()
