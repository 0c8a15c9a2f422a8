"""Bounds on what one step of a chat template may make, so that no text, list or number outgrows every prompt.

The tokenizer's own jinja environment is extended: operators, calls and filters that can make a large result of small
values are charged for the size of that result before they run.
"""

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, no_type_check

LARGEST = 50_000_000  # characters and items that one rendering may make, all together
BITS = 100_000  # of a whole number
NESTED = 1_000_000  # items that a list of lists may have in all when it is written out
_WIDE = re.compile(r"\d{7,}")  # a width inside a format
_GIVEN = re.compile(r"\*|:[^}]*\{")  # a width that is given as a value
_WIDTHS = ("batch", "center", "ljust", "rjust", "zfill", "lipsum", "slice")


class EndlessTemplate(ValueError):
    """A chat template takes more steps, or makes something larger, than any sensible one."""


@no_type_check
def bounded(environment: Any) -> Any:
    """The same environment with bounds; `environment.allowance` is the size that may still be made: set it first.

    Templates that are compiled or rendered by it raise EndlessTemplate where they exceed the bounds.
    """
    overlay = environment.overlay()
    overlay.__class__ = _environment_class(type(environment))
    overlay.allowance = LARGEST
    overlay.code_generator_class = _generator_class(environment.code_generator_class)
    overlay.filters = {name: _sized_filter(overlay, name, f) for name, f in environment.filters.items()}
    overlay.concat = overlay.joined
    overlay.finalize = overlay.written
    return overlay


@no_type_check
def _generator_class(plain: type) -> type:
    class Joining(plain):
        def visit_Concat(self, node: Any, frame: Any) -> None:  # a ~ b
            self.write("environment.chained((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

    return Joining


@no_type_check
def _environment_class(plain: type) -> type:
    class Watched(plain):
        intercepted_binops = frozenset(("*", "**", "%", "+"))

        def take(self, size: int) -> None:
            self.allowance -= size
            if self.allowance < 0:
                raise _refusal()

        def joined(self, parts: Iterable[str]) -> str:
            pieces = []
            for part in parts:
                self.take(len(part))
                pieces.append(part)
            return "".join(pieces)

        def chained(self, parts: Iterable[Any]) -> str:
            return self.joined(str(self.written(part)) for part in parts)

        def written(self, value: Any) -> Any:
            """The value itself, if it is not too large to be written out: lists may hold one list many times."""
            waiting, count = [value], 0
            while waiting:
                one = waiting.pop()
                if isinstance(one, list | tuple | dict | set | frozenset):
                    count += 1 + len(one)
                    waiting += [*one.keys(), *one.values()] if isinstance(one, dict) else one
                elif one is not value and isinstance(one, str):
                    self.take(len(one))
                if count > NESTED:
                    raise _refusal()
            return value

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            self.take(_operator_size(operator, left, right))
            return super().call_binop(context, operator, left, right)

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
            if name == "join" and args:
                args = (_as_list(args[0]), *args[1:])
            text = owner if isinstance(owner, str) else ""
            __self.take(_result_size(name, text, [*args, *kwargs.values()]))
            return super().call(__context, __obj, *args, **kwargs)

        def wrap_str_format(self, value: Any) -> Any:
            formatter, text = super().wrap_str_format(value), getattr(value, "__self__", "")
            return None if formatter is None else _sized_format(self, text, formatter)

    return Watched


@no_type_check
def _sized_format(environment: Any, text: str, f: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(f)
    def sized(*args: Any, **kwargs: Any) -> Any:
        environment.take(_format_size(text, [*args, *kwargs.values()]))
        return f(*args, **kwargs)

    return sized


@no_type_check
def _sized_filter(environment: Any, name: str, f: Callable[..., Any]) -> Callable[..., Any]:
    place = 1 if hasattr(f, "jinja_pass_arg") else 0

    @wraps(f)
    def sized(*args: Any, **kwargs: Any) -> Any:
        before, value, rest = args[:place], args[place] if len(args) > place else None, args[place + 1 :]
        if name in ("join", "sum", "string", "tojson", "pprint"):
            value = value if isinstance(value, str | dict) else _as_list(value)
            environment.written(value)
        others = [*rest, *kwargs.values()]
        if name in ("join", "sum"):
            environment.take(_result_size(name, str(others[0]) if others else "", [value]))
        elif name == "format":
            environment.take(_format_size(str(value), others))
        else:
            environment.take(_result_size(name, value if isinstance(value, str) else "", others))
        return f(*before, value, *rest, **kwargs) if len(args) > place else f(*args, **kwargs)

    return sized


@no_type_check
def _as_list(value: Any) -> Any:
    """An iterator as a list, so that its items can be counted; anything else as it is."""
    return list(value) if hasattr(value, "__next__") else value


@no_type_check
def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


@no_type_check
def _operator_size(operator: str, left: Any, right: Any) -> int:
    """How large the result of an operator is; EndlessTemplate for a number of too many bits."""
    if isinstance(left, int) and isinstance(right, int) and operator in ("*", "**"):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if abs(left) > 1 and bits > BITS:
            raise _refusal()
        return 0
    if operator == "*":
        count = next((one for one in (left, right) if isinstance(one, int)), 0)
        return (_length(left) + _length(right)) * max(0, count)
    if operator == "%" and isinstance(left, str):
        return _format_size(left, list(right) if isinstance(right, tuple) else [right])
    return _length(left) + _length(right) if operator == "+" else 0


@no_type_check
def _result_size(name: str, text: str, others: list[Any]) -> int:
    """The largest size that the result of a method or filter can have; numbers may be widths, texts may be repeated."""
    if name in ("format", "format_map"):
        return 0  # measured where the method is looked up
    widths = sum(abs(one) for one in others if isinstance(one, int))
    if widths > LARGEST:
        raise _refusal()
    if name == "replace" and len(others) > 1 and all(isinstance(one, str) for one in others[:2]):
        return len(text) + text.count(others[0]) * len(others[1])
    if name == "join":
        items = others[0] if others and isinstance(others[0], list | tuple) else []
        return len(text) * len(items) + sum(map(_length, items))
    if name in ("indent", "wordwrap", "expandtabs"):
        lines = 1 + text.count("\n") + text.count("\t") + (len(text) if name == "wordwrap" else 0)
        return len(text) + lines * (widths + sum(map(_length, others)))
    if name == "sum":
        return sum(map(_length, others[0])) if others and isinstance(others[0], list | tuple) else 0
    return widths if name in _WIDTHS else 0


@no_type_check
def _format_size(text: str, values: list[Any]) -> int:
    if _WIDE.search(text) or any(isinstance(one, str) and _WIDE.fullmatch(one) for one in values):
        raise _refusal()
    places = text.count("{") + text.count("%")
    widths = sum(abs(one) for one in values if isinstance(one, int)) if _GIVEN.search(text) else 0
    return len(text) + places * (widths + sum(map(_length, values)))


@no_type_check
def _refusal() -> EndlessTemplate:
    return EndlessTemplate(
        f"got a chat template that makes something of more than {LARGEST:,} characters or items, or a number of more "
        f"than {BITS:,} bits; expected a prompt; correct the model's chat_template, or take its text out of it with "
        "template=False"
    )
