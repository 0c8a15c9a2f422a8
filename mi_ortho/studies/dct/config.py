"""Settings of the command `dct`: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass

from mi_ortho.runs.settings import later


@dataclass(frozen=True)
class DctConfig:
    """Settings of `dct`: the slice, the methods and numbers of factors, and the prompts that they are tried on.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        prompts: texts whose mean response is transcoded, the first one is shown, or files of them (@FILE or a path);
            None takes the model's own list.
        held_out: texts that only completions are judged on; None takes the first four of the model's own list.
        system: system message; None keeps the chat template's own.
        source: block after which vectors are added.
        target: block after which activations are read.
        where: positions that are steered: all, prompt, generated, not_first, system, user, assistant, a range a:b, or a
            number of last prompt positions; several with + between.
        readout: target positions that are averaged: mean (all), or a number of last positions.
        method: linear, projected, quadratic, exponential; several may be given.
        published: also run what the published code computes for each method.
        k: factors of each method.
        seeds: of starts, projections and random directions; one fit of each method for each.
        radius: norm of the steering vectors; None calibrates it.
        ratio: share of the response that is not linear at the calibrated norm.
        steps: iterations of the quadratic and exponential methods.
        damping: share of the new direction in each iteration; 1 is the plain one.
        retract: how directions are made orthonormal: qr (the first ones keep theirs) or polar (all give way alike).
        projections: random combinations of the outputs that the projected method and the exponential start look at.
        solver: of the linear method and of spectra: dense, krylov, randomised; the last two where k is far below width.
        behaviour: mode that factors are ranked by; None ranks by weight.
        toward: texts whose first tokens stand for the behaviour; None reads them off the model.
        away: texts whose first tokens stand against it; None takes those of the unsteered completions.
        draws: random families for each p-value; at least 10.
        batch: prompts of one graph; they share it.
        chunk: factors of one pass; less memory when lower.
        answer_tokens: unsteered tokens along which the divergence is measured.
        max_new_tokens: length limit of completions.
        device: cpu, cuda, cuda:1, mps.
        dtype: of the model's weights: float32, bfloat16, float16.
        trust_remote_code: run code from the model's repository.
        sinks: exclude leaves attention sinks out of steering and reading, include treats them like other positions.
    """

    model: str | None = None
    prompts: tuple[str, ...] | None = None
    held_out: tuple[str, ...] | None = None
    system: str | None = None
    source: int = 10
    target: int = 20
    where: str = "all"
    readout: str = "3"
    method: tuple[str, ...] = ("linear", "exponential")
    published: bool = False
    k: int = 64
    seeds: tuple[int, ...] = (0,)
    radius: float | None = None
    ratio: float = 0.5
    steps: int = 10
    damping: float = 1.0
    retract: str = "qr"
    projections: int = 32
    solver: str = "dense"
    behaviour: str | None = None
    toward: tuple[str, ...] | None = None
    away: tuple[str, ...] | None = None
    draws: int = 20
    batch: int = 8
    chunk: int = 64
    answer_tokens: int = 16
    max_new_tokens: int = 48
    device: str = "cpu"
    dtype: str = "float32"
    trust_remote_code: bool = False
    sinks: str = later("exclude")
