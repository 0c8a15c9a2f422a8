"""What one step of a chat template may make: no text, list or number of a size that no prompt has.

The tokenizer's own environment of jinja is taken over and watched: operators, calls and filters that can make something
large out of something small say how large before they do it.
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
    """The same environment with bounds; `environment.allowance` is what is left of them, set it before rendering.

    Errors of templates that are compiled or rendered by it: EndlessTemplate.
    """
    found = environment.overlay()
    found.__class__ = _watched(type(environment))
    found.allowance = LARGEST
    found.code_generator_class = _joining(environment.code_generator_class)
    found.filters = {name: _guarded(found, name, f) for name, f in environment.filters.items()}
    found.concat = found.joined
    found.finalize = found.written
    return found


@no_type_check
def _joining(plain: type) -> type:
    class Joining(plain):
        def visit_Concat(self, node: Any, frame: Any) -> None:  # a ~ b
            self.write("environment.chained((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

    return Joining


@no_type_check
def _watched(plain: type) -> type:
    class Watched(plain):
        intercepted_binops = frozenset(("*", "**", "%", "+"))

        def take(self, size: int) -> None:
            self.allowance -= size
            if self.allowance < 0:
                raise _refusal()

        def joined(self, parts: Iterable[str]) -> str:
            kept = []
            for part in parts:
                self.take(len(part))
                kept.append(part)
            return "".join(kept)

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
            self.take(_size(operator, left, right))
            return super().call_binop(context, operator, left, right)

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            text, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
            if name == "join" and args:
                args = (_listed(args[0]), *args[1:])
            own = text if isinstance(text, str) else ""
            __self.take(_made(name, own, [*args, *kwargs.values()]))
            return super().call(__context, __obj, *args, **kwargs)

        def wrap_str_format(self, value: Any) -> Any:
            found, text = super().wrap_str_format(value), getattr(value, "__self__", "")
            return None if found is None else _formatting(self, text, found)

    return Watched


@no_type_check
def _formatting(environment: Any, text: str, f: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(f)
    def sized(*args: Any, **kwargs: Any) -> Any:
        environment.take(_formatted(text, [*args, *kwargs.values()]))
        return f(*args, **kwargs)

    return sized


@no_type_check
def _guarded(environment: Any, name: str, f: Callable[..., Any]) -> Callable[..., Any]:
    place = 1 if hasattr(f, "jinja_pass_arg") else 0

    @wraps(f)
    def sized(*args: Any, **kwargs: Any) -> Any:
        before, value, rest = args[:place], args[place] if len(args) > place else None, args[place + 1 :]
        if name in ("join", "sum", "string", "tojson", "pprint"):
            value = value if isinstance(value, str | dict) else _listed(value)
            environment.written(value)
        others = [*rest, *kwargs.values()]
        if name in ("join", "sum"):
            environment.take(_made(name, str(others[0]) if others else "", [value]))
        elif name == "format":
            environment.take(_formatted(str(value), others))
        else:
            environment.take(_made(name, value if isinstance(value, str) else "", others))
        return f(*before, value, *rest, **kwargs) if len(args) > place else f(*args, **kwargs)

    return sized


@no_type_check
def _listed(value: Any) -> Any:
    """Items that come one by one as a list, so that they can be measured; anything else as it is."""
    return list(value) if hasattr(value, "__next__") else value


@no_type_check
def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


@no_type_check
def _size(operator: str, left: Any, right: Any) -> int:
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
        return _formatted(left, list(right) if isinstance(right, tuple) else [right])
    return _length(left) + _length(right) if operator == "+" else 0


@no_type_check
def _made(name: str, text: str, others: list[Any]) -> int:
    """At most how large the result of a method or filter is; numbers may be widths, texts may be put in many times."""
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
def _formatted(text: str, values: list[Any]) -> int:
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
