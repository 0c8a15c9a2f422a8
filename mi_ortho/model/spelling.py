"""Tokens as a reader sees them: byte-level tokens that only together make a character are joined."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_UNKNOWN = "\ufffd"  # what a tokenizer writes for bytes that are no character
_LONGEST = 8  # tokens that one character, or one joined emoji, may take


@dataclass(frozen=True)
class Pieces:
    """Readable pieces of a token sequence: what each says, and how many tokens it is made of."""

    texts: tuple[str, ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def mean(self, values: Float[Tensor, " pos *rest"]) -> Float[Tensor, " piece *rest"]:
        """One value for each piece: the mean over its tokens.

        >>> Pieces(("a", "€"), (1, 2)).mean(torch.tensor([5.0, 1.0, 3.0]))
        tensor([5., 2.])
        """
        self._check(len(values))
        return torch.stack([part.mean(0) for part in values.split(list(self.sizes))])

    def attention(self, patterns: Float[Tensor, "*head query_pos key_pos"]) -> Float[Tensor, "*head query key"]:
        """Attention among pieces: what a piece pays is the mean over its tokens, what it gets is the sum.

        Rows that sum to one keep doing so.
        """
        self._check(patterns.shape[-1])
        received = torch.stack([part.sum(-1) for part in patterns.split(list(self.sizes), dim=-1)], dim=-1)
        return torch.stack([part.mean(-2) for part in received.split(list(self.sizes), dim=-2)], dim=-2)

    def _check(self, count: int) -> None:
        if count != sum(self.sizes):
            raise ValueError(
                f"got values of {count} tokens; expected {sum(self.sizes)}, the tokens these pieces are made of; "
                "pass what was read on them"
            )


def pieces(tokenizer: Any, ids: Sequence[int]) -> Pieces:
    """Token ids as pieces of readable text: the fewest tokens in a row that decode to whole characters.

    Bytes that are no character however they are joined stay single, shown as U+FFFD.
    """
    texts: list[str] = []
    sizes: list[int] = []
    start = 0
    while start < len(ids):
        size = next((n for n in range(1, _LONGEST + 1) if _whole(tokenizer, ids[start : start + n])), 1)
        size = min(size, len(ids) - start)
        texts.append(tokenizer.decode(list(ids[start : start + size])))
        sizes.append(size)
        start += size
    return Pieces(tuple(texts), tuple(sizes))


def _whole(tokenizer: Any, ids: Sequence[int]) -> bool:
    return _UNKNOWN not in tokenizer.decode(list(ids))
