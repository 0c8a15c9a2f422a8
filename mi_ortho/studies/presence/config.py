"""Settings of the command `presence`: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PresenceConfig:
    """How the vectors of a finished family run are looked for in activations on real text.

    Attributes:
        model: the model the family was made on, where the run's own name for it does not work here.
        match: which family of the run: kl, activation, or auto for the one of which more vectors keep the behaviour.
        layers: layers whose residual stream is read; None takes the family's source to its target.
        own: prompts that ask for code, as many that ask for English on the same topics, and up to as many others.
        library: functions of the standard library, their docstrings, and as many paragraphs of other prose.
        max_new_tokens: length limit of what the model writes.
        text_tokens: length limit of each real text.
        sample: activations of each group and layer that are kept.
        null_tokens: of these, how many the null sets are measured on.
        sets: null sets of each kind.
        shuffles: label shuffles and bootstraps.
        splits: splits of the text for the nullspace probes.
        seed: of everything random.
        device: cpu, cuda, cuda:1, mps.
        dtype: of the model's weights: float32, bfloat16, float16.
        trust_remote_code: run code from the model's repository.
    """

    model: str | None = None
    match: str = "auto"
    layers: tuple[int, ...] | None = None
    own: int = 96
    library: int = 96
    max_new_tokens: int = 48
    text_tokens: int = 96
    sample: int = 2048
    null_tokens: int = 512
    sets: int = 100
    shuffles: int = 500
    splits: int = 3
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    trust_remote_code: bool = False
