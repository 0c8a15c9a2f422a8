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
# of the rules for chat models, which are more than there are colours: taken unless another name of the same list has it
_USUAL = {
    "identity": "m2",
    "list": "m3",
    "story": "m4",
    "incoherent": "m5",
    "poem": "m6",
    "json": "m4",
    "mathematics": "m6",
    "language": "m6",
}
_FREE = ("m2", "m3", "m4", "m5", "m6", "m0", "m1")  # what is code's or a refusal's comes last


def category_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour class for every different name: names of `_KNOWN` always have the same, the others take free ones.

    >>> category_colours(["refuse", "comply", "code", "list"])
    {'refuse': 'm1', 'comply': 'm2', 'code': 'm0', 'list': 'm3'}
    """
    colours = dict.fromkeys(names, "")
    colours |= {name: _KNOWN[name] for name in colours if name in _KNOWN}
    for name in colours:
        if _USUAL.get(name, OTHERS) not in {OTHERS, *colours.values()}:
            colours[name] = _USUAL[name]
    free = [colour for colour in _FREE if colour not in colours.values()]
    for name, colour in colours.items():
        if not colour:
            colours[name] = free.pop(0) if free else OTHERS
    return colours
