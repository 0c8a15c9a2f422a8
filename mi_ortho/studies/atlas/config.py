"""Settings of the command `atlas`: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AtlasConfig:
    """Which pairs of layers are tried, at which norms, and with how many vectors.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        prompts: texts searched on together, the first one is judged, or files of them (@FILE or a path); None takes the
            first of the model's own list.
        system: system message; None keeps the chat template's own.
        sources: blocks after which vectors are added; None takes some by the model's depth.
        blocks: how many blocks later activations are read; None takes some by the model's depth.
        norms: of the vectors, as multiples of the stream's median norm at the source, attention sinks left out; tried
            upwards until most answers cannot be read.
        behaviour: mode that is looked for; auto counts all that differ from the unsteered one.
        candidates: MELBO vectors of each pair and norm, and random ones of each source and norm.
        steps: iterations of MELBO, which are few: vectors are compared here, not used.
        values: singular values of each Jacobian.
        where: positions that are steered: all, prompt, generated, not_first, system, user, assistant, a range a:b, or a
            number of last prompt positions; several with + between.
        max_new_tokens: length limit of completions.
        seed: of everything random.
        device: cpu, cuda, cuda:1, mps.
        dtype: of the model's weights: float32, bfloat16, float16.
        trust_remote_code: run code from the model's repository.
        sinks: exclude leaves attention sinks out of steering and reading, include treats them like other positions.
    """

    model: str | None = None
    prompts: tuple[str, ...] | None = None
    system: str | None = None
    sources: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    norms: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
    behaviour: str = "auto"
    candidates: int = 6
    steps: int = 4
    values: int = 8
    where: str = "prompt"
    max_new_tokens: int = 24
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    trust_remote_code: bool = False
    sinks: str = "exclude"
