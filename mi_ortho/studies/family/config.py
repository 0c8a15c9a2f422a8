"""Settings of the command `family`: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass
from typing import Literal

from mi_ortho.runs.settings import later


@dataclass(frozen=True)
class FamilyConfig:
    """What to search for and on what. Layers are counted from 0; vectors are added after block `source`.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        prompts: texts searched on together, the first one is shown, or files of them (@FILE or a path);
            None takes the model's own list.
        held_out: texts that only measure transfer; None takes the model's own list.
        system: system message; None keeps the chat template's own.
        source: block after which vectors are added; auto takes source, target and radius from the newest atlas.
        target: block after which activations are matched; auto, as source.
        radius: norm of the base vector; auto takes the smallest at which a candidate shows a new behaviour that can be
            read; lambda, or nothing, the one from which the response is no longer linear.
        where: positions that are steered: all, prompt, generated, not_first, system, user, assistant, a range a:b, or a
            number of last prompt positions; several with + between.
        readout: how target activations are pooled over positions: mean, all, or other positions named like those of
            `where`; "mean of user" averages over some.
        melbo_readout: the same for the displacement that MELBO maximises.
        behaviour: mode of the base vector to look for; auto takes the first that differs from the unsteered mode.
        candidates: MELBO vectors to choose the base from.
        candidate_block: candidates that are searched together; 1 finds others, one after the other.
        base: a safetensors file whose first vector is the base, instead of MELBO.
        n: orthogonal vectors that match target activations (the published loss).
        n_kl: orthogonal vectors that match next-token distributions along the base's answer.
        random_bases: vectors of a control family grown from a random base of the same norm.
        controls: vectors of each family, spread evenly over it, that get controls; 0 takes all of them.
        displaced_bases: the same for a random base made so long that it moves target activations as far as the base.
        answer_tokens: tokens of the base's answer that the KL match covers.
        norm_cap: largest norm as a multiple of the base's; 0 for none, as published.
        fixed_norm: norm of every vector as a multiple of the base's; 0 for free norms.
        penalty: weight of an L2 penalty on the norm; 0 for none, as published.
        solver: projected (L-BFGS on the projected gradient) or published (Adam on the raw one, activation match only).
        max_steps: solver steps per vector; None is 30 for the projected solver and 1000 for the published one.
        restarts: random starts per vector, of which the best is kept.
        until_lost: end a family when so many measured vectors in a row have lost the base's behaviour; 0 never does.
        block: vectors searched at once, for accelerators.
        patience: searches in a row without an effect after which the family has ended.
        shrink: also quote the shortest norm with 95 percent of the effect.
        max_new_tokens: length limit of completions.
        temperature: of completions; 0 is greedy.
        seed: of everything random.
        device: cpu, cuda, cuda:1, mps.
        dtype: of the model's weights: float32, bfloat16, float16.
        trust_remote_code: run code from the model's repository.
        sinks: exclude leaves attention sinks out of steering and reading, include treats them like other positions.
    """

    model: str | None = None
    prompts: tuple[str, ...] | None = None
    held_out: tuple[str, ...] | None = None
    system: str | None = None
    source: int | Literal["auto"] = 8
    target: int | Literal["auto"] = 16
    radius: float | Literal["auto", "lambda"] | None = None
    where: str = "all"
    readout: str = "mean"
    melbo_readout: str = "all"
    behaviour: str = "auto"
    candidates: int = 32
    base: str | None = None
    n: int = 32
    n_kl: int = 96
    random_bases: int = 16
    answer_tokens: int = 24
    norm_cap: float = 0.0
    fixed_norm: float = 0.0
    penalty: float = 0.0
    solver: str = "projected"
    max_steps: int | None = None
    restarts: int = 1
    block: int = 1
    patience: int = 8
    shrink: bool = True
    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    trust_remote_code: bool = False
    sinks: str = later("exclude")
    candidate_block: int = later(8)
    displaced_bases: int = later(0)
    controls: int = later(0)
    until_lost: int = later(0)

    @property
    def layers(self) -> tuple[int, int]:
        """Source and target, once they are numbers.

        Raises:
            ValueError: one of them is auto: only the commands look them up.
        """
        if isinstance(self.source, str) or isinstance(self.target, str):
            raise ValueError(
                f"got source {self.source} and target {self.target}; expected both auto, or numbers of blocks; "
                "change --source or --target"
            )
        return self.source, self.target
