"""Settings of the command `nulls`: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass

from mi_ortho.runs.settings import later

PARTS = ("linear", "gradients", "dose", "completions", "composition", "signs", "spectrum", "multiplicity")


@dataclass(frozen=True)
class NullsConfig:
    """Settings of the null models that a finished family run is compared with.

    Attributes:
        run: directory of the family run; None takes the newest finished one below the output folder.
        model: with no run named, only runs of this model are considered; None is the embedded model.
        threshold: share of the base's own effect from which a vector counts as working.
        nodes: points of the mean Jacobian along the path to the base.
        samples: random subsets for each size of a mean.
        draws: random families for each p-value; at least 10.
        seed: of everything random.
        device: cpu, cuda, cuda:1, mps.
        parts: what is measured, of linear, gradients, dose, completions, composition, signs, spectrum, multiplicity.
            On a wide model composition and spectrum (second derivatives) take many times as long as the rest.
        dosed: vectors of each group whose effect is measured at every scale.
    """

    run: str | None = None
    model: str | None = None
    threshold: float = 0.5
    nodes: int = 8
    samples: int = 12
    draws: int = 20
    seed: int = 0
    device: str = "cpu"
    parts: tuple[str, ...] = later(PARTS)
    dosed: int = later(16)
