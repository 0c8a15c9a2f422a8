"""Draws the figures of the concepts page from closed-form maps: `python docs/figures.py [FOLDER]`.

No model is needed, so every curve can be checked by hand.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

import mi_ortho as mo
from mi_ortho.pages import Panel, Series, standalone

IMAGES = Path(__file__).parent / "images"
WIDTH = 32  # d_model of the maps
DIMENSIONS = 12  # of the subspace whose energy the third map reads
CAPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # norm caps, as multiples of the base's norm
USEFUL = 0.7  # relative loss up to which a vector is counted


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation(seed: int) -> torch.Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=rng(seed), dtype=torch.float64))[0]


def linear(singular: torch.Tensor) -> mo.LinearMap:
    """A linear map with these singular values."""
    return mo.LinearMap(rotation(0) @ torch.diag(singular) @ rotation(1), torch.zeros(WIDTH, dtype=torch.float64))


def equal() -> mo.LinearMap:
    """All singular values 1."""
    return linear(torch.ones(WIDTH, dtype=torch.float64))


def decaying() -> mo.LinearMap:
    """Singular values from 1 down to 1/30, even in the logarithm."""
    return linear(torch.logspace(0, -1.477, WIDTH, dtype=torch.float64))


def energy() -> mo.FunctionMap:
    """|theta inside a subspace|^2 u: every direction of the subspace does the same."""
    inside = rotation(2)[:DIMENSIONS]
    return mo.FunctionMap(lambda theta: (theta @ inside.mT).square().sum(-1, keepdim=True).expand(-1, 2), WIDTH)


def random_base(seed: int = 3) -> torch.Tensor:
    """A random vector of norm 1."""
    return mo.random_vectors(1, WIDTH, 1.0, rng(seed))[0].double()


def energy_base() -> torch.Tensor:
    """A vector of norm 1 inside the subspace that `energy` reads."""
    return rotation(2)[0]


def family(z: mo.ActivationMap, base: torch.Tensor, n: int, cap: float = float("inf")) -> list[mo.SearchResult]:
    """The vectors that `melbo_ortho` finds, those without an effect left out."""
    settings = mo.OrthoSettings(max_norm=cap, solver=mo.Lbfgs(max_steps=200))
    searches = mo.melbo_ortho(mo.match(z, base), base, seed=0, settings=settings)
    return [found for found in islice(searches, n) if found.status is not mo.Status.COLLAPSED]


def maps(n: int = 20) -> str:
    """Losses of three families: what decides how many vectors there are is the map."""
    found = {
        "linear, equal singular values": (equal(), random_base(), "second"),
        "linear, decaying singular values": (decaying(), random_base(), "c1"),
        f"energy inside {DIMENSIONS} dimensions": (energy(), energy_base(), "family"),
    }
    series = []
    for label, (z, base, style) in found.items():
        losses = [result.loss for result in family(z, base, n, cap=1.0)]  # none longer than its base
        losses += [1.0] * (n - len(losses))  # no vector with an effect is left
        series.append(Series(label, range(n), losses, style, key=style))
    panel = Panel("Three maps, three families", "relative loss", lines={"no effect": 1.0}, size=(5.2, 2.6))
    return standalone(panel, series)


def theory(n: int = 24) -> str:
    """On a linear map the losses and norms are those of the linear null."""
    z = decaying()
    base = random_base()
    found = family(z, base, n)
    null = mo.linear_null(z.jacobian, base, n)
    panel = Panel("The family of a linear map", "relative loss; norm / 10", size=(5.2, 2.6))
    series = [
        Series("loss, searched", range(len(found)), [one.loss for one in found], "family", key="a", dots=True),
        Series("loss, linear null", range(n), null.losses.tolist(), "null", key="b"),
        Series("norm / 10, searched", range(len(found)), _norms(found), "c1", key="c", dots=True),
        Series("norm / 10, linear null", range(n), (null.norms / 10).tolist(), "c1", key="d"),
    ]
    return standalone(panel, series)


def _norms(found: Sequence[mo.SearchResult]) -> list[float]:
    return [float(one.vector.norm()) / 10 for one in found]


def counts() -> list[int]:
    """How many vectors of the decaying map reach the loss `USEFUL`, for each norm cap."""
    z = decaying()
    base = random_base()
    return [sum(one.loss <= USEFUL for one in family(z, base, WIDTH - 1, cap)) for cap in CAPS]


def caps() -> str:
    """The count depends on how long a vector may be."""
    axis = "norm cap / norm of the base"
    panel = Panel(f"Vectors with a loss up to {USEFUL}", "count", xlabel=axis, whole=True, size=(5.2, 2.4))
    return standalone(panel, [Series("one linear map", CAPS, counts(), "family")])


FIGURES = {"concept-maps.svg": maps, "concept-linear.svg": theory, "concept-caps.svg": caps}


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    folder = Path(arguments[0]) if arguments else IMAGES
    for name, draw in FIGURES.items():
        (folder / name).write_text(draw(), "utf-8")
        print(folder / name)


if __name__ == "__main__":
    main(sys.argv[1:])
