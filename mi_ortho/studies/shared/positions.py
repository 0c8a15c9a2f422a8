"""Where a run steers and reads: positions as settings name them, and the treatment of attention sinks."""

from collections.abc import Sequence
from typing import Any

from mi_ortho.model import Model, positions_of, tokenize, without_sinks
from mi_ortho.model.slice import MEAN_OF
from mi_ortho.studies.shared.progress import Say


def sinks_of(choice: str, model: Model, texts: Sequence[str], system: str | None) -> str:
    """The treatment of attention sinks: "exclude" if that is the setting and the model has some on these texts.

    Else "include", so that a model without sinks is not searched for them at every use.

    Raises:
        ValueError: `choice` is neither.
    """
    if choice not in ("include", "exclude"):
        raise ValueError(f"got sinks {choice!r}; expected exclude or include; correct --sinks")
    if choice == "exclude" and without_sinks(model, tokenize(model, texts, system=system)).passive is not None:
        return "exclude"
    return "include"


def sinks_setting(
    choice: str, model: Model, texts: Sequence[str], system: str | None, say: Say = lambda line: None
) -> dict[str, str]:
    """The setting of attention sinks that names a run: "exclude" where some are excluded, else none.

    So runs of models without sinks have the settings that they had before there was this one.
    """
    if sinks_of(choice, model, texts, system) != "exclude":
        return {}
    say("attention sinks are left out of steering and reading (--sinks include takes them in)")
    return {"sinks": "exclude"}


def where(text: str) -> Any:
    """Positions that are steered, as `mo.model.positions_of` explains.

    >>> where("prompt"), where("3")
    ('prompt', 3)

    Raises:
        ValueError: anything else.
    """
    return positions_of(text)


def readout_of(text: str) -> Any:
    """How target activations are read: mean, all, a number of last positions, other positions, or the mean of them.

    >>> readout_of("mean"), readout_of("1"), readout_of("mean of user")
    ('mean', 1, 'mean of user')

    Raises:
        ValueError: anything else.
    """
    if text == "mean":
        return text
    name = text.removeprefix(MEAN_OF)
    return positions_of(name, "readout") if name == text else f"{MEAN_OF}{positions_of(name, 'readout')}"
