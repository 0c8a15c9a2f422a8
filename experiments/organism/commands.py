"""The commands behind `python -m experiments.organism`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter

from mi_ortho.cli.exit_code import parsed

from .dial import SEEDS, dial_table, materialise, organisms, read_rows, train_set
from .evaluate import compare
from .export import export, read_recipe, ship
from .families import BEHAVIOURS, families_section, families_table, run_families
from .recipe import PRESETS, Recipe, load_recipe, override
from .shares import SEEDS as PART_SEEDS
from .shares import compare_parts, shares_table
from .texts import MANIFEST, manifest, read_texts
from .tokenizer import train_tokenizer
from .train import train

SHIPPED = Path(__file__).parents[2] / "mi_ortho" / "organism"
app = App(
    name="python -m experiments.organism",
    help="Make the embedded model organism.",
    help_format="plaintext",
    version_flags=[],
    suppress_keyboard_interrupt=False,  # it gives exit code 130
    default_parameter=Parameter(consume_multiple=True, negative=""),
)
RecipeName = Annotated[str, Parameter(help=f"{', '.join(PRESETS)} or a TOML file.")]
Words = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a wrong argument is one line on stderr and exit code 2."""
    return parsed("error", app.meta, arguments)


@app.meta.default
def launch(*words: Words, threads: int = 1) -> object:
    """Make the embedded model organism.

    Args:
        threads: CPU threads (results are compared at equal thread count).
    """
    if not words:
        raise ValueError(
            f"got no command; expected one of {', '.join(one for one in app if one[0] != '-')}; see --help"
        )
    torch.set_num_threads(threads)
    return app(words, exit_on_error=False, print_error=False, result_action="return_value")


def dial(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """`recipe` with the named modes' frequencies set and the others rescaled so that all sum to 1."""
    try:
        fixed = {mode: float(share) for mode, share in (s.split("=") for s in settings)}
    except ValueError as error:
        raise ValueError(
            f"got --frequency {' '.join(settings)}; expected MODE=SHARE, as in code=.3; correct it"
        ) from error
    if not fixed:
        return recipe
    rest = {m: f for m, f in recipe.corpus.frequencies.items() if m not in fixed}
    scale = (1 - sum(fixed.values())) / sum(rest.values())
    return override(recipe, {"corpus": {"frequencies": {m: f * scale for m, f in rest.items()} | fixed}})


@app.command(name="train")
def train_command(
    *,
    out: Path,
    recipe: RecipeName = "d128-l8",
    seed: int | None = None,
    steps: int | None = None,
    frequency: tuple[str, ...] = (),
    device: str = "cpu",
) -> None:
    """Train a recipe (or resume) and write the Hugging Face folder `<out>/model`.

    Args:
        out: folder for checkpoint and model.
        seed: overrides the recipe's seed.
        steps: overrides the recipe's number of steps.
        frequency: MODE=SHARE ...: set shares; the others are rescaled.
        device: cpu, cuda or cuda:1.
    """
    plan = dial(load_recipe(recipe), frequency)
    plan = replace(plan, **{key: one for key, one in (("seed", seed), ("steps", steps)) if one is not None})
    print(
        f"recipe {plan.name} {plan.digest}: {plan.steps} steps of {plan.batch} conversations, seed {plan.seed}",
        flush=True,
    )
    files = read_texts(plan.texts)
    tokenizer = train_tokenizer(plan.vocab_size, plan.seed, files=files)
    training = train(plan, tokenizer, out, report=tell, files=files, device=device)
    export(training.plain_weights(), tokenizer, plan, out / "model")
    if files:
        (out / "model" / MANIFEST).write_text(json.dumps(manifest(files), indent=1) + "\n")
    tell(f"wrote {out / 'model'}")


@app.command
def evaluate(folders: list[Path], /, *, count: int = 200, untrained: bool = False) -> None:
    """Print the table of held-out measures.

    Args:
        folders: model folders.
        count: held-out requests for each mode.
        untrained: add a column for the first model's network before training.
    """
    print(compare(folders, read_recipe(folders[0]) if untrained else None, count))


@app.command(name="export")
def export_command(
    model: Path,
    /,
    *,
    to: Path = SHIPPED,
    beside: tuple[Path, ...] = (),
    count: int = 200,
    families: Path | None = None,
    note: Path | None = None,
) -> None:
    """Evaluate a trained model and write the folder that is shipped, with its card.

    Args:
        model: model folder of a training, `<out>/model`.
        to: folder to write.
        beside: model folders of other columns of the table.
        count: held-out requests for each mode.
        families: folder written by `families` on this model, for the card.
        note: Markdown file with what was tried, for the card.
    """
    table = compare([model, *beside], read_recipe(model), count)
    here = Path.cwd()
    path = to.relative_to(here) if to.is_relative_to(here) else to
    more = families_section(families, read_recipe(model).d_model) if families else ""
    if note:
        more += f"\n{note.read_text().strip()}\n"
    ship(model, to, table, f"python -m experiments.organism evaluate {path} --untrained", more)
    print(table)


@app.command(name="dial")
def dial_command(*, out: Path, seeds: tuple[int, ...] = tuple(SEEDS)) -> None:
    """Train the set of small organisms with dialled frequencies, or what is missing of it, and print its table.

    Args:
        out: folder of the set; finished organisms are skipped.
        seeds: seeds of every setting.
    """
    models = organisms(seeds=list(seeds))
    steps = sum(o.step for o in models if o.step == o.recipe.steps)
    print(f"{len(models)} sets of weights, {steps} training steps; on one free core about {steps / 900:.0f} minutes")
    print(dial_table(train_set(out, models, report=tell)))


@app.command(name="dial-table")
def dial_table_command(folder: Path, /) -> None:
    """Print how well each organism of a set does, as Markdown.

    Args:
        folder: folder written by `dial`.
    """
    print(dial_table(read_rows(folder)))


@app.command
def dial_model(folder: Path, name: str, /, *, out: Path) -> None:
    """Write the model folder of one organism of a set.

    Args:
        folder: folder written by `dial`.
        name: the organism's name in dial.json.
        out: model folder to write.
    """
    print(f"wrote {materialise(folder, name, out)}")


@app.command
def shares(*, out: Path, seeds: tuple[int, ...] = tuple(PART_SEEDS)) -> None:
    """Train and measure what leak, openings, offsets and growth each contribute, then print the table.

    Args:
        out: folder; finished variants are skipped.
        seeds: seeds of every variant.
    """
    print(shares_table(compare_parts(out, list(seeds), report=tell)))


@app.command
def families(model: Path | None = None, /, *, out: Path, behaviours: tuple[str, ...] = tuple(BEHAVIOURS)) -> None:
    """Find the family of each behaviour of the seeds and print them as a table.

    Args:
        model: model folder; the embedded model without it.
        out: folder of run directories; finished ones are kept.
        behaviours: files in mi_ortho/organism.
    """
    runs = run_families(model, out, list(behaviours), tell)
    print(families_table(runs, read_recipe(model or SHIPPED).d_model))


def tell(line: str) -> None:
    """Print a line of progress at once."""
    print(line, flush=True)
