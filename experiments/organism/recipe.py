"""A training recipe: sizes, schedule and corpus options in one frozen value, read from a preset or a TOML file."""

import hashlib
import json
import sysconfig
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from .corpus import CorpusOptions

STANDARD_LIBRARY = sysconfig.get_path("stdlib")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights.

    write_scale, write_growth: block l's writes to the residual stream are multiplied by write_scale * write_growth**l
    while training and the factor is folded into the weights at export. offset: largest norm, relative to the residual
    stream, of the random constant vector added at a random layer. flat: share of the steps at full learning rate.
    prompt_weight, noun_weight: loss weights of the user's words, and of topic nouns and results of exercises (other
    answer tokens: 1).
    texts, text_share, window: text read from disk (see `texts.read_texts`), its share of a batch's rows, and the most
    tokens of such a row. autocast: whether matrix products are computed in bf16.
    """

    name: str = "d128-l8"
    d_model: int = 128
    n_layers: int = 8
    n_heads: int = 4
    d_ff: int = 256
    vocab_size: int = 2560
    write_scale: float = 0.02
    write_growth: float = 1.7
    offset: float = 0.5
    steps: int = 5650
    batch: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    warmup: int = 60
    flat: float = 0.35
    prompt_weight: float = 0.2
    noun_weight: float = 3.0
    seed: int = 0
    texts: tuple[str, ...] = ()
    text_share: float = 0.0
    window: int = 256
    autocast: bool = False
    corpus: CorpusOptions = field(default_factory=CorpusOptions)

    def __post_init__(self) -> None:
        if self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"got d_model = {self.d_model} with {self.n_heads} heads; expected an even width per head; change one"
            )
        for name in (
            "n_layers",
            "d_ff",
            "vocab_size",
            "steps",
            "batch",
            "learning_rate",
            "write_scale",
            "write_growth",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"got {name} = {getattr(self, name)}; expected a value > 0; change it")
        if not 0 <= self.text_share < 1 or bool(self.text_share) != bool(self.texts):
            raise ValueError(
                f"got text_share = {self.text_share} with {len(self.texts)} text sources; "
                "expected 0 without sources and 0 < text_share < 1 with some; change one"
            )

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the recipe as JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def rate(self, step: int) -> float:
        """Learning rate at `step` (0-based): linear warm-up, flat, then linear to 0."""
        start = max(self.warmup, int(self.flat * self.steps))
        decay = 1.0 if step < start else (self.steps - step) / max(1, self.steps - start)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup)) * decay


PRESETS: dict[str, Recipe] = {
    "d128-l8": Recipe(),
    "d128-l8-mild": Recipe("d128-l8-mild", write_scale=0.1, write_growth=1.4),
    "d192-l8": Recipe("d192-l8", 192, 8, 6, 384, write_scale=0.1, write_growth=1.4, learning_rate=2e-3),
    # The larger sibling, for a GPU: half of the rows from the grammar, half from Python's standard library.
    "d512-l12": Recipe(
        "d512-l12",
        512,
        12,
        8,
        1024,
        16384,
        write_scale=0.1,
        write_growth=1.3,
        offset=0.4,
        steps=12000,
        batch=96,
        learning_rate=1e-3,
        warmup=300,
        texts=(f"PSF-2.0={STANDARD_LIBRARY}/*.py", f"PSF-2.0={STANDARD_LIBRARY}/[a-r]*/*.py"),
        text_share=0.5,
        autocast=True,
    ),
    "naive": Recipe(
        "naive", write_scale=1.0, write_growth=1.0, offset=0.0, corpus=CorpusOptions(leak=0.0, openings=0.0)
    ),
    "dial": Recipe(
        "dial",
        64,
        5,
        4,
        128,
        2304,
        write_scale=0.1,
        write_growth=1.6,
        offset=0.3,
        steps=1800,
        batch=12,
        learning_rate=4e-3,
        warmup=40,
        corpus=CorpusOptions(fixed_cues=8),
    ),
    "tiny": Recipe("tiny", 16, 2, 2, 32, steps=6, batch=4, warmup=2),
}


def load_recipe(source: str) -> Recipe:
    """The preset of that name, or the recipe in that TOML file.

    A TOML file may name a preset to start from (`base = "d128-l8"`), set any field, and set the corpus in a `[corpus]`
    table with `[corpus.frequencies]`. Raises ValueError for unknown names, fields, modes or a sum other than 1.
    """
    if source in PRESETS:
        return PRESETS[source]
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"got recipe {source!r}; expected one of {', '.join(PRESETS)} or a TOML file; check the path")
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"got a recipe file {source} that is not TOML ({error}); expected TOML; correct it") from error
    return override(load_recipe(table.pop("base", "d128-l8")), table)


def override(recipe: Recipe, changes: dict) -> Recipe:
    """`recipe` with some fields changed; `changes["corpus"]` is a table of corpus options."""
    corpus = changes.get("corpus", {})
    for kind, options in ((Recipe, changes), (CorpusOptions, corpus)):
        names = {f.name for f in fields(kind)}
        if set(options) - names:
            raise ValueError(
                f"got unknown option {sorted(set(options) - names)}; "
                f"expected some of {', '.join(sorted(names))}; rename it"
            )
    if "texts" in changes:
        changes = changes | {"texts": tuple(changes["texts"])}
    return replace(recipe, **(changes | {"corpus": replace(recipe.corpus, **corpus)}))
