"""Configurations of the commands: plain values, no tensors, so that the command line can describe them at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FamilyConfig:
    """What to search for and on what. Layers are counted from 0; vectors are added after block `source`.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        prompts: texts searched on together, the first one is shown; None takes the model's own list.
        held_out: texts that only measure transfer; None takes the model's own list.
        system: system message; None keeps the chat template's own.
        source: block after which vectors are added.
        target: block after which activations are matched.
        radius: norm of the base vector; None calibrates it.
        where: positions that are steered: all, prompt, generated.
        readout: how target activations are pooled over positions: mean, all, or a number of last positions.
        melbo_readout: the same for the displacement that MELBO maximises.
        behaviour: mode of the base vector to look for; auto takes the first that differs from the unsteered mode.
        candidates: MELBO vectors to choose the base from.
        base: a safetensors file whose first vector is the base, instead of MELBO.
        n: orthogonal vectors that match target activations (the published loss).
        n_kl: orthogonal vectors that match next-token distributions along the base's answer.
        random_bases: vectors of a control family grown from a random base of the same norm.
        answer_tokens: tokens of the base's answer that the KL match covers.
        norm_cap: largest norm as a multiple of the base's; 0 for none, as published.
        fixed_norm: norm of every vector as a multiple of the base's; 0 for free norms.
        penalty: weight of an L2 penalty on the norm; 0 for none, as published.
        solver: projected (L-BFGS on the projected gradient) or published (Adam on the raw one, activation match only).
        max_steps: solver steps per vector; None is 30 for the projected solver and 1000 for the published one.
        restarts: random starts per vector, of which the best is kept.
        block: vectors searched at once, for accelerators.
        patience: searches in a row without an effect after which the family has ended.
        shrink: also quote the shortest norm with 95 percent of the effect.
        max_new_tokens: length limit of completions.
        temperature: of completions; 0 is greedy.
        seed: of everything random.
        device: cpu, cuda, cuda:1, mps.
        dtype: of the model's weights: float32, bfloat16, float16.
        trust_remote_code: run code from the model's repository.
    """

    model: str | None = None
    prompts: tuple[str, ...] | None = None
    held_out: tuple[str, ...] | None = None
    system: str | None = None
    source: int = 8
    target: int = 16
    radius: float | None = None
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


@dataclass(frozen=True)
class PresenceConfig:
    """How the vectors of a finished family run are looked for in activations on real text.

    Attributes:
        model: the model the family was made on, where the run's own name for it does not work here.
        match: which family of the run: kl, activation, or auto for the first it has.
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


@dataclass(frozen=True)
class GeometryConfig:
    """Which network's layers to measure, on which two sets of prompts, and how much is drawn at random.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        harmful: first prompts, a JSON file or the name of a data set; None takes the model's own or a shipped set.
        harmless: second prompts, likewise.
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


@dataclass(frozen=True)
class NullsConfig:
    """What a finished family run is held against.

    Attributes:
        run: directory of the family run; None takes the newest finished one below the output folder.
        model: with no run named, only runs of this model are considered; None is the embedded model.
        threshold: share of the base's own effect from which a vector counts as working.
        nodes: points of the mean Jacobian along the path to the base.
        samples: random subsets for each size of a mean.
        draws: random families for each p-value; at least 10.
        seed: of everything random.
        device: cpu, cuda, cuda:1, mps.
    """

    run: str | None = None
    model: str | None = None
    threshold: float = 0.5
    nodes: int = 8
    samples: int = 12
    draws: int = 20
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class RefusalConfig:
    """What refusal directions are extracted from, selected by and tried on. Layers are counted from 0.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        harmful: a JSON file of [{"instruction": ...}] or the name of a data set; None takes the model's own or ours.
        harmless: likewise.
        split: which split of a data set.
        column: which column of a data set or key of a file; None tries the usual ones.
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


@dataclass(frozen=True)
class DctConfig:
    """Which slice is transcoded, by which methods into how many factors, and what they are tried on.

    Attributes:
        model: a name or folder TransformerLens can load; None is the embedded model.
        prompts: texts whose mean response is transcoded, the first one is shown; None takes the model's own list.
        held_out: texts that only completions are judged on; None takes the first four of the model's own list.
        system: system message; None keeps the chat template's own.
        source: block after which vectors are added.
        target: block after which activations are read.
        where: positions that are steered: all, prompt, generated, or a number of last prompt positions.
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
