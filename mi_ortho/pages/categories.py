"""A colour for each category, the same on every page: what is refused is orange wherever it stands."""

from collections.abc import Iterable

OTHERS = "m7"  # grey: "other", and whatever finds no colour of its own
_KNOWN = {
    "code": "m0",
    "answers": "m0",
    "kept": "m0",
    "refuse": "m1",
    "refuses": "m1",
    "lost": "m1",
    "broken": "m1",
    "finished": "m2",
    "unfinished": "m3",
    "other": OTHERS,
}


def category_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour class for every different name: names of `_KNOWN` always have the same, the others take the free ones.

    >>> category_colours(["refuse", "poem", "code"])
    {'refuse': 'm1', 'poem': 'm2', 'code': 'm0'}
    """
    colours = dict.fromkeys(names, "")
    colours |= {name: _KNOWN[name] for name in colours if name in _KNOWN}
    free = [colour for colour in (f"m{k}" for k in range(7)) if colour not in colours.values()]
    for name, colour in colours.items():
        if not colour:
            colours[name] = free.pop(0) if free else OTHERS
    return colours
