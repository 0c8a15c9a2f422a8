"""Steering vectors of one site as files, with the hook point, the model and the provenance they belong to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_ortho.interventions.sites import Site
from mi_ortho.runs.files import plain, read_tensors, to_json, write_tensors

FORMAT = "mi_ortho steering vectors 1"


@dataclass(frozen=True, eq=False)
class SteeringVectors:
    """The rows of `vectors`, each to be added to the activation at `site` of `model`.

    `meta` says how they were made; it holds what JSON can hold (tuples become lists, NaN becomes None).

    >>> family = SteeringVectors(2 * torch.eye(3, 8), Site(4, "resid_post"), "organism", {"match": "kl"})
    >>> len(family), family.d_model, family.norms.tolist(), len(family.subset([2, 0]))
    (3, 8, [2.0, 2.0, 2.0], 2)

    Raises:
        ValueError: a vector is not finite, the width is 0, or `site` has no axis d_model.
    """

    vectors: Float[Tensor, "n d_model"]
    site: Site
    model: str
    meta: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vectors.shape[1] == 0:
            raise ValueError("got steering vectors of width 0; expected d_model columns; check their shape")
        bad = (~torch.isfinite(self.vectors)).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"got NaN or infinity in vector {bad[0]} ({len(bad)} in all); expected finite; drop them")
        if self.site.axes[-1] != "d_model":
            raise ValueError(f"got site {self.site} with axes {self.site.axes}; expected one that ends in d_model")
        object.__setattr__(self, "vectors", self.vectors.detach())
        object.__setattr__(self, "meta", MappingProxyType(json.loads(to_json(self.meta))))

    def __len__(self) -> int:
        return self.vectors.shape[0]

    @property
    def d_model(self) -> int:
        return self.vectors.shape[1]

    @property
    def norms(self) -> Float[Tensor, " n"]:
        """Euclidean norms of the vectors."""
        return self.vectors.norm(dim=1)

    def vector(self, index: int) -> Float[Tensor, " d_model"]:
        """The vector of this index, counted from 0."""
        return self.vectors[self._check(index)]

    def subset(self, indices: Sequence[int]) -> "SteeringVectors":
        """The vectors of these indices, in this order; `meta` is kept."""
        rows = torch.tensor([self._check(index) for index in indices], dtype=torch.long, device=self.vectors.device)
        return SteeringVectors(self.vectors[rows], self.site, self.model, self.meta)

    def _check(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise ValueError(f"got vector index {index}; expected 0 to {len(self) - 1}; the family has {len(self)}")
        return index


def save_vectors(vectors: SteeringVectors, path: Path) -> None:
    """Write a family as safetensors, atomically: the tensor "vectors" and a header with site, model and meta."""
    if path.suffix != ".safetensors":
        raise ValueError(f"got {path}; expected a name ending in .safetensors; rename it or use an export function")
    write_tensors(path, {"vectors": vectors.vectors}, header(vectors.site, vectors.model, vectors.meta))


def header(site: Site, model: str, meta: Mapping[str, object]) -> dict[str, str]:
    """What `load_vectors` needs in the header of a safetensors file, for files that hold several families."""
    return {"format": FORMAT, "site": str(site), "model": model, "meta": to_json(plain(meta))}


def load_vectors(path: Path, name: str = "vectors") -> SteeringVectors:
    """Read the family stored as tensor `name` (in the file of a run: "kl", "activation", "melbo" or "base").

    A single vector, shape d_model, becomes a family of one. Pickles are never read.

    Raises:
        ValueError: the file is missing or damaged, is no safetensors file, has no such tensor or no such header, or
            holds values that are not finite.
    """
    tensors, metadata = read_tensors(path)
    if "site" not in metadata or "model" not in metadata:
        raise ValueError(f"got {path} without site and model in its header; expected a file written by save")
    if name not in tensors:
        raise ValueError(f"got tensor name {name!r}; expected one of {', '.join(sorted(tensors))}, which {path} holds")
    tensor = tensors[name]
    rows = rearrange(tensor, "d_model -> 1 d_model") if tensor.ndim == 1 else tensor
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(
            f"got {name} of shape {tuple(tensor.shape)}, {tensor.dtype}, in {path}; expected n d_model floats"
        )
    return SteeringVectors(
        rows, Site.parse(metadata["site"]), metadata["model"], json.loads(metadata.get("meta", "{}"))
    )
