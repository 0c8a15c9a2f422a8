"""Settings of the command `refusal`: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass

from mi_ortho.runs.settings import later


@dataclass(frozen=True)
class RefusalConfig:
    """Settings of `refusal`: prompts, candidates, limits and sizes of all parts. Layers are counted from 0.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        harmful: a file of prompts or the name of a data set; None takes the model's own or ours.
        harmless: likewise.
        behaviour: refuse, or another behaviour of the model's rules, such as code. Then the harmful prompts are those
            that ask for it and the harmless ones others; None takes the lists of these names of the model.
        against: the list of other prompts.
        split: which split of a data set.
        column: which column of a data set or key of a file, of both; None tries the usual ones.
        harmful_column: the same for the harmful prompts alone.
        harmless_column: the same for the harmless prompts alone.
        train: prompts of each class for extraction.
        validation: prompts of each class for selection.
        test: prompts of each class that directions are tried on.
        streams: where directions are read: resid_pre, resid_mid, resid_post.
        positions: columns counted from the end of the prompt, -1 the last; None takes all after the user's text.
        refusal_tokens: first tokens of refusals, as texts; None reads them off the model.
        kl_limit: largest KL divergence that ablation may cause on harmless prompts.
        induce_limit: smallest refusal score that addition must give harmless prompts.
        last_layers: share of the layers at the end whose directions are not taken.
        strength: of the addition, as a multiple of the difference of means.
        random: random directions of equal norm tried as controls.
        matrix: layers of the cross-layer ablation matrix, spread evenly; 0 for none.
        angle_step: degrees between angles of the steering circle; 0 for none.
        circle_prompts: prompts of each class on the circle.
        rounds: of extraction under ablation of all earlier directions, and of null-space projection; 0 for none.
        cone: dimension of a cone of directions optimised by gradient (RDO); 0 for none.
        cone_steps: steps of that optimisation.
        max_new_tokens: length limit of completions.
        seed: of everything random.
        device: cpu, cuda, cuda:1, mps.
        dtype: of the model's weights: float32, bfloat16, float16.
        trust_remote_code: run code from the model's repository.
    """

    model: str | None = None
    harmful: str | None = None
    harmless: str | None = None
    split: str = "train"
    column: str | None = None
    harmful_column: str | None = later(None)
    harmless_column: str | None = later(None)
    train: int = 128
    validation: int = 32
    test: int = 100
    streams: tuple[str, ...] = ("resid_pre",)
    positions: tuple[int, ...] | None = None
    refusal_tokens: tuple[str, ...] | None = None
    kl_limit: float = 0.1
    induce_limit: float = 0.0
    last_layers: float = 0.2
    strength: float = 1.0
    random: int = 3
    matrix: int = 8
    angle_step: int = 30
    circle_prompts: int = 8
    rounds: int = 3
    cone: int = 0
    cone_steps: int = 60
    max_new_tokens: int = 64
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    trust_remote_code: bool = False
    behaviour: str = later("refuse")
    against: str = later("explain")
