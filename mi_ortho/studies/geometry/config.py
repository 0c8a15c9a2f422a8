"""Settings of the command `geometry`: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass

from mi_ortho.runs.settings import later


@dataclass(frozen=True)
class GeometryConfig:
    """Settings of `geometry`: the model, the two sets of prompts, and sizes of the random parts.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        harmful: first prompts, a file or the name of a data set; None takes the model's own or a shipped set.
        harmless: second prompts, likewise.
        harmful_column: the column or key with the first prompts; None tries the usual ones.
        harmless_column: the same for the second prompts.
        limit: prompts of each set that are read at most.
        controls: also measure the untrained network and the one with shuffled weights.
        draws: bootstrap resamplings of the prompts.
        directions: leading directions of each output matrix whose overlap is measured.
        rotations: random rotations of the output matrices.
        splits: random halves on which maps between layers are fitted and judged.
        neighbours: of each activation in the neighbour graph.
        triangles: geodesic triangles of each cloud.
        copies: Gaussian clouds of each layer.
        batch: prompts read together.
        seed: of everything random.
        device: cpu, cuda, cuda:1, mps.
        dtype: of the model's weights: float32, bfloat16, float16.
        trust_remote_code: run code from the model's repository.
    """

    model: str | None = None
    harmful: str | None = None
    harmless: str | None = None
    harmful_column: str | None = later(None)
    harmless_column: str | None = later(None)
    limit: int = 128
    controls: bool = True
    draws: int = 200
    directions: int = 8
    rotations: int = 40
    splits: int = 6
    neighbours: int = 8
    triangles: int = 400
    copies: int = 8
    batch: int = 16
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    trust_remote_code: bool = False
