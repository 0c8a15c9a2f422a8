"""A device that is none: tensors that say they lie elsewhere while their numbers lie on the CPU.

What mixes them with tensors of the CPU, or draws on them with a generator of the CPU, fails as it would on a GPU. So
the tests find, without a GPU, the places where a tensor stays behind on the CPU.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
DEVICE = torch.device("privateuseone", 0)  # what it is called until it is registered
MIXED = {"copy_", "index", "index_put", "index_put_", "_index_put_impl_", "_to_copy", "set_"}  # both devices allowed
CPU = torch.device("cpu")


class Elsewhere(Tensor):
    """A tensor on the device; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Elsewhere({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()  # allowed on every device

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return act(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Sees what makes tensors from nothing, which no tensor's class does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return act(func, args, kwargs or {})


class Generator(torch.Generator):
    """A generator that remembers the device it was made for."""

    belongs: torch.device

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls)
        made.belongs = _placed(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.belongs

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()


class _Drawn(TorchFunctionMode):
    """Sees what the other does not: whose generator is used, and tensors made from lists."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        generator = given.get("generator")
        if generator is not None:
            tensors = [one for one in args if isinstance(one, Tensor)]
            to = given.get("device") or (tensors[0].device if tensors else CPU)
            if generator.device.type != torch.device(to).type:
                raise RuntimeError(f"{func.__name__}: expected a generator of {to}, got one of {generator.device}")
        if func in (torch.tensor, torch.as_tensor) and given.get("device") is not None:  # filled in before any mode
            return func(*args, **{**given, "device": None}).to(given["device"])
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Elsewhere):
            value = [torch.as_tensor(one, dtype=args[0].dtype).to(args[0].device) for one in args[2:]]
            args = (args[0], _carried(args[0])(args[1]), *value)
        return func(*args, **given)


def _carried(to: Tensor) -> Callable[[Any], Any]:
    """An index of lists as one of tensors on the device, which torch itself would make without telling a mode."""

    def carried(one: Any) -> Any:
        if isinstance(one, tuple):
            return tuple(map(carried, one))
        if isinstance(one, list):
            return torch.tensor(one).to(to.device)
        return one

    return carried


@lru_cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)


@contextmanager
def elsewhere() -> Iterator[str]:
    """The name of the device, while it exists; registered for a whole process, so that tests start one of their own."""
    _register()
    with _Drawn(), _Everywhere(), patch.object(torch, "Generator", Generator):
        yield NAME


def _placed(device: Any) -> torch.device:
    return DEVICE if torch.device(device).type == NAME else torch.device(device)


def act(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do an operation on the numbers, after a look at where its tensors lie."""
    tensors = [leaf for leaf in tree_flatten((args, dict(kwargs)))[0] if isinstance(leaf, Tensor)]
    there = [leaf for leaf in tensors if isinstance(leaf, Elsewhere)]
    wanted = kwargs.get("device")
    here = [leaf for leaf in tensors if not isinstance(leaf, Elsewhere) and leaf.dim() > 0]
    name = func.overloadpacket.__name__
    outside = name.startswith(("index", "_index")) and not isinstance(args[0], Elsewhere)  # by numbers that lie there
    if there and here and (name not in MIXED or outside):
        raise RuntimeError(f"{name}: expected all tensors on one device, got {DEVICE} and cpu")
    to = _placed(wanted) if wanted is not None else DEVICE if there else CPU
    if name in ("copy_", "index_put_", "_index_put_impl_"):
        to = args[0].device
    plain_args, plain = tree_map_only(Elsewhere, lambda leaf: leaf.inner, (tuple(args), dict(kwargs)))
    if wanted is not None and to == DEVICE:
        plain["device"] = CPU
    out = func(*plain_args, **plain)
    if to != DEVICE:
        return out
    out = tree_map_only(Tensor, Elsewhere, out)
    return return_and_correct_aliasing(func, tuple(args), dict(kwargs), out) if there else out


if __name__ == "__main__":  # python tests/elsewhere.py COMMAND ... --device elsewhere
    from mi_ortho.cli import main

    with elsewhere():
        sys.exit(main(sys.argv[1:]))
