"""Text of models and numbers, made safe and readable for a page."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from markupsafe import Markup

_PICTURES = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)} | {0x7F: "\u2421"}
_MARKS = {
    code: f"\u27e8U+{code:04X}\u27e9"
    for code in [*range(0x80, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
}
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_VISIBLE = _PICTURES | _MARKS | _SURROGATES


def visible(text: object) -> str:
    """The text with control characters, direction overrides and lone surrogates replaced by marks one can see.

    >>> visible("bell\\x07 kept\\n")
    'bell␇ kept\\n'
    """
    return str(text).replace("\r\n", "\n").translate(_VISIBLE)


def number(value: object, digits: int = 3) -> str:
    """A number as a person writes it, a dash where there is none.

    >>> [number(x) for x in (0.123456, 1234567, 2.5e-9, None, 12, True)]
    ['0.123', '1,234,567', '2.5e-9', '–', '12', 'yes']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "\u2013" if value is None or isinstance(value, float) else visible(value)
    if isinstance(value, int) or value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def plain(value: object) -> object:
    """The value as JSON can hold it: texts made visible, floats finite and short, paths and other things as text."""
    if isinstance(value, Mapping):
        return {visible(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return visible(value)


def json_script(value: object, **attributes: str) -> Markup:
    """A JSON data block: markup inside texts cannot end it, no script runs from it."""
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    attribute_text = Markup("").join(
        Markup(' {}="{}"').format(key.replace("_", "-"), item) for key, item in attributes.items()
    )
    return Markup('<script type="application/json"{}>{}</script>').format(attribute_text, Markup(text))


def command_line(arguments: Sequence[str]) -> str:
    """The arguments as one line a shell takes, the program by its name alone.

    >>> command_line(["/opt/bin/mi-ortho", "family", "--prompt", "How can I?"])
    "mi-ortho family --prompt 'How can I?'"
    >>> command_line(["/home/me/experiments/__main__.py", "all"])
    'python -m experiments all'
    """
    name, *rest = [str(argument) for argument in arguments] or [""]
    quoted = [
        text if re.fullmatch(r"[\w@%+=:,./-]+", text) else "'" + text.replace("'", "'\"'\"'") + "'" for text in rest
    ]
    program, folder = PurePath(name).name, PurePath(name).parent.name
    if program == "__main__.py":
        program = "mi-ortho" if folder == "cli" else f"python -m {folder}"
    return visible(" ".join([program, *quoted]))


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, an ellipsis at the end of what was cut.

    >>> clip("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "\u2026"
