"""Typed hook points: where in a transformer an activation is read or written."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn_pattern"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_RESIDUAL_AXES = ("batch", "pos", "d_model")
_PATTERN_AXES = ("batch", "head", "query_pos", "key_pos")


@dataclass(frozen=True, order=True)
class Site:
    """One hook point: the activation `kind` of block `layer` (counted from 0).

    >>> site = Site.parse("resid_post.4")
    >>> site.name, site.boundary, site.writable
    ('blocks.4.hook_resid_post', 5, True)
    >>> resid_post(4).boundary == resid_pre(5).boundary          # one and the same activation
    True
    """

    layer: int
    kind: Kind

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"got site kind {self.kind!r}; expected one of {', '.join(KINDS)}; correct the spelling")
        if self.layer < 0:
            raise ValueError(f"got layer {self.layer}; expected a layer from 0 up; count from the first block")

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The site that `str` wrote: `kind.layer`. Raises ValueError for anything else."""
        kind, _, layer = text.partition(".")
        if kind not in KINDS or not layer.isdecimal():
            raise ValueError(
                f"got site {text!r}; expected kind.layer with kind one of {', '.join(KINDS)}; "
                "write for instance resid_post.4"
            )
        return cls(int(layer), kind)  # pyright: ignore[reportArgumentType]

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    @property
    def name(self) -> str:
        """The TransformerLens name of the hook point."""
        middle = "attn.hook_pattern" if self.kind == "attn_pattern" else f"hook_{self.kind}"
        return f"blocks.{self.layer}.{middle}"

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of the activation."""
        return _PATTERN_AXES if self.kind == "attn_pattern" else _RESIDUAL_AXES

    @property
    def boundary(self) -> int | None:
        """How many blocks are complete at this point of the residual stream; None inside a block.

        Two sites of equal boundary are one activation.
        """
        return {"resid_pre": self.layer, "resid_post": self.layer + 1}.get(self.kind)

    @property
    def writable(self) -> bool:
        """Whether a change written here reaches everything that depends on the activation.

        False for `resid_mid`, where the change would reach only the MLP and not the skip connection, and for
        `attn_pattern`, which is not a residual-stream activation.
        """
        return self.kind in ("resid_pre", "resid_post", "attn_out", "mlp_out")


def resid_pre(layer: int) -> Site:
    """The residual stream entering block `layer`."""
    return Site(layer, "resid_pre")


def resid_mid(layer: int) -> Site:
    """The residual stream between attention and MLP of block `layer` (read only)."""
    return Site(layer, "resid_mid")


def resid_post(layer: int) -> Site:
    """The residual stream leaving block `layer`."""
    return Site(layer, "resid_post")


def attn_out(layer: int) -> Site:
    """What the attention of block `layer` adds to the residual stream."""
    return Site(layer, "attn_out")


def mlp_out(layer: int) -> Site:
    """What the MLP of block `layer` adds to the residual stream."""
    return Site(layer, "mlp_out")


def attn_pattern(layer: int) -> Site:
    """The attention probabilities of block `layer`, `batch head query_pos key_pos` (read only)."""
    return Site(layer, "attn_pattern")
