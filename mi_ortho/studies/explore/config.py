"""Settings of the command `explore`: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExploreConfig:
    """What an explorer of a finished family run shows.

    Attributes:
        model: the model the family was made on, where the run's own name for it does not work here.
        vectors: at most about this many, evenly spaced; more make the page larger than 3 MB.
        nearest: tokens named at either end of each vector.
        device: cpu, cuda, cuda:1, mps.
        dtype: of the model's weights: float32, bfloat16, float16; None takes the run's own.
    """

    model: str | None = None
    vectors: int = 160
    nearest: int = 8
    device: str = "cpu"
    dtype: str | None = None
