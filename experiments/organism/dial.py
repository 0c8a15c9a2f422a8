"""The frequency dial: small organisms that differ in how often code and alien answers occur, and in their seed.

Design. code + alien is the same share of all conversations in every organism, so that no other mode's frequency
changes; each setting occurs with the two swapped, so that what is peculiar to a mode cancels; both frequencies span two
orders of magnitude; each mode has equally many cue words and personas whatever its frequency, so that frequency is not
mixed up with the number of ways of asking. One tokenizer serves all. Of one balanced organism the weights at
logarithmically spaced steps are kept too. Seeds are the outer loop: a set that was cut short is a complete set of fewer
seeds.

Files: `dial.json` (one row an organism: frequencies, seed, step, SHA-256, held-out accuracies), `tokenizer/`, and
`weights/NAME.safetensors` in bf16. `materialise` makes a model folder of one.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mi_ortho.behaviours import load_modes

from .card import sha256
from .corpus import FREQUENCIES
from .evaluate import evaluate, load_model
from .export import MODES_FILE, save_weights, write_settings
from .recipe import PRESETS, Recipe, override
from .tokenizer import train_tokenizer
from .train import train

TOTAL = 0.505  # of all conversations are code or alien
CODE = (0.2525, 0.05, 0.455, 0.005, 0.5)  # in the order of training: the balanced organism first
SEEDS = (0, 1, 2)
SNAPSHOTS = 8  # kept of the balanced organism of the first seed, the last being its final weights
JUDGED = ("code", "alien", "help", "refuse")
COUNT = 60  # held-out requests for each judged mode


@dataclass(frozen=True)
class Organism:
    """One model of the set: `step` < recipe.steps marks a snapshot taken in training."""

    name: str
    recipe: Recipe
    step: int

    @property
    def shares(self) -> tuple[float, float]:
        """Frequencies of code and alien."""
        return self.recipe.corpus.of("code"), self.recipe.corpus.of("alien")


def dialled(base: Recipe, code: float, seed: int) -> Recipe:
    """`base` with code's frequency set, alien's such that both make TOTAL, the other modes' rescaled once for all."""
    rest = {mode: share for mode, share in FREQUENCIES.items() if mode not in ("code", "alien")}
    scale = (1 - TOTAL) / sum(rest.values())
    shares = {mode: share * scale for mode, share in rest.items()} | {"code": code, "alien": round(TOTAL - code, 6)}
    return override(replace(base, seed=seed), {"corpus": {"frequencies": shares}})


def snapshot_steps(steps: int, count: int = SNAPSHOTS) -> list[int]:
    """`count` steps that grow by a constant factor from a 64th of `steps` to `steps`.

    >>> snapshot_steps(640, 4)
    [10, 40, 160, 640]
    """
    return sorted({max(1, round(steps / 64 ** (1 - i / max(1, count - 1)))) for i in range(count)})


def organisms(base: Recipe = PRESETS["dial"], seeds: Sequence[int] = SEEDS) -> list[Organism]:
    """Every model of the set, in the order of training; the snapshots stand before their organism."""
    models = []
    for seed in seeds:
        for code in CODE:
            recipe = dialled(base, code, seed)
            name = f"code{code:g}-alien{recipe.corpus.of('alien'):g}-seed{seed}"
            if seed == seeds[0] and code == CODE[0]:
                models += [Organism(f"{name}-step{s}", recipe, s) for s in snapshot_steps(recipe.steps)[:-1]]
            models.append(Organism(name, recipe, recipe.steps))
    return models


def plan(models: Sequence[Organism]) -> str:
    """How much there is to train and how long that may take.

    >>> plan([Organism("a", replace(PRESETS["dial"], steps=1800), 1800)])
    '1 sets of weights, 1800 training steps; on one free core about 2 minutes'
    """
    furthest: dict[str, int] = {}
    for each in models:
        furthest[each.recipe.digest] = max(each.step, furthest.get(each.recipe.digest, 0))
    steps = sum(furthest.values())
    return f"{len(models)} sets of weights, {steps} training steps; on one free core about {steps / 900:.0f} minutes"


def train_set(
    folder: Path, models: Sequence[Organism], report: Callable[[str], None] = print, count: int | None = None
) -> list[dict[str, Any]]:
    """Train, evaluate and record every organism that `folder` does not hold yet; returns the rows of `dial.json`.

    `count` held-out requests of each judged mode are answered (None: COUNT; 0: no accuracies are measured).
    Raises ValueError before any training where the folder holds organisms of another recipe.
    """
    rows = read_rows(folder) if (folder / "dial.json").exists() else []
    recipes = {organism.name: organism.recipe.digest for organism in models}
    other = [row["name"] for row in rows if recipes.get(row["name"], row["recipe"]) != row["recipe"]]
    if other:
        raise ValueError(
            f"got {folder} with {other[0]} of another recipe; expected {recipes[other[0]]}; use another folder"
        )
    tokenizer = shared_tokenizer(folder, models[0].recipe)
    for number, organism in enumerate(models, 1):
        if organism.name not in {row["name"] for row in rows}:
            report(f"{number}/{len(models)} {organism.name}")
            rows.append(train_one(folder, organism, tokenizer, report, COUNT if count is None else count))
            write_rows(folder, rows)
    shutil.rmtree(folder / "training", ignore_errors=True)
    return rows


def train_one(
    folder: Path, organism: Organism, tokenizer: PreTrainedTokenizerBase, report: Callable[[str], None], count: int
) -> dict[str, Any]:
    """Train one organism on from the last checkpoint of its recipe, store its weights and return its row."""
    work = folder / "training" / organism.recipe.digest
    training = train(organism.recipe, tokenizer, work, report=report, stop=organism.step)
    path = folder / "weights" / f"{organism.name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_weights(training.plain_weights(), path)
    code, alien = organism.shares
    row = {
        "name": organism.name,
        "code": code,
        "alien": alien,
        "seed": organism.recipe.seed,
        "step": organism.step,
        "recipe": organism.recipe.digest,
        "sha256": sha256(path),
    }
    if count == 0:
        return row
    model, loaded = load_model(materialise(folder, organism, folder / "training" / "model"))
    measures = evaluate(model, loaded, load_modes(MODES_FILE), count, organism.recipe.corpus, of_modes=JUDGED)
    return row | {measure.name: round(measure.share, 4) for measure in measures}


def shared_tokenizer(folder: Path, recipe: Recipe) -> PreTrainedTokenizerBase:
    """The set's tokenizer: read from `folder`, trained by seed 0 the first time."""
    if not (folder / "tokenizer").exists():
        folder.mkdir(parents=True, exist_ok=True)
        train_tokenizer(recipe.vocab_size, 0).save_pretrained(folder / "tokenizer")
    return AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)


def materialise(folder: Path, organism: Organism | str, to: Path) -> Path:
    """Write a model folder that `mi_ortho.load_model` reads for one organism of the set, and return it.

    Raises ValueError for a name the set does not have and for weights that are missing or not the recorded ones.
    """
    by_name = {each.name: each for each in organisms()}
    if isinstance(organism, str):
        if organism not in by_name:
            raise ValueError(f"got organism {organism!r}; expected one of {', '.join(by_name)}; correct the name")
        organism = by_name[organism]
    weights = folder / "weights" / f"{organism.name}.safetensors"
    recorded = {row["name"]: row["sha256"] for row in read_rows(folder)} if (folder / "dial.json").exists() else {}
    if not weights.is_file() or recorded.get(organism.name, sha256(weights)) != sha256(weights):
        raise ValueError(
            f"got {weights} missing or damaged; expected the recorded weights; delete its row and file, "
            "and run `dial` again"
        )
    shutil.copytree(folder / "tokenizer", to, dirs_exist_ok=True)
    shutil.copyfile(weights, to / "model.safetensors")
    write_settings(organism.recipe, to)
    return to


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of `dial.json`; raises ValueError where it is missing or damaged."""
    try:
        return json.loads((folder / "dial.json").read_text())["organisms"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"got {folder} without a readable dial.json; expected a folder written by `dial`; run it first"
        ) from error


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Replace `dial.json`."""
    temporary = folder / "dial.json.part"
    temporary.write_text(json.dumps({"base": asdict(PRESETS["dial"]), "organisms": rows}, indent=1) + "\n")
    temporary.replace(folder / "dial.json")


def dial_table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of held-out accuracies, one line an organism."""
    measures = [key for key in rows[0] if key.startswith(("mode", "topic")) or " " in key] if rows else []
    lines = [f"| code | alien | seed | step | {' | '.join(measures)} |", f"|{'---|' * (4 + len(measures))}"]
    for row in sorted(rows, key=lambda r: (r["code"], r["seed"], r["step"])):
        cells = [*(f"{row[key]:g}" for key in ("code", "alien", "seed", "step")), *(f"{row[m]:.2f}" for m in measures)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
