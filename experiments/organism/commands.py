"""The commands behind `python -m experiments.organism`."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

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


def main(argv: list[str] | None = None) -> int:
    """Run one command; a wrong argument is one line on stderr and exit code 2."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        return options.run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.organism", description="Make the embedded model organism."
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads (results are compared at equal thread count)"
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train a recipe and write the Hugging Face folder")
    command.add_argument("--recipe", default="d128-l8", help=f"{', '.join(PRESETS)} or a TOML file")
    command.add_argument("--out", type=Path, required=True, help="folder for checkpoint and model")
    command.add_argument("--seed", type=int, help="overrides the recipe's seed")
    command.add_argument("--steps", type=int, help="overrides the recipe's number of steps")
    command.add_argument(
        "--frequency", nargs="*", default=[], metavar="MODE=SHARE", help="set shares; the others are rescaled"
    )
    command.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    command.set_defaults(run=run_train)
    command = commands.add_parser("evaluate", help="print the table of held-out measures")
    command.add_argument("folders", type=Path, nargs="+", help="model folders")
    command.add_argument("--count", type=int, default=200, help="held-out requests for each mode")
    command.add_argument(
        "--untrained", action="store_true", help="add a column for the first model's network before training"
    )
    command.set_defaults(run=run_evaluate)
    command = commands.add_parser(
        "export", help="evaluate a trained model and write the folder that is shipped, with its card"
    )
    command.add_argument("model", type=Path, help="model folder of a training, `<out>/model`")
    command.add_argument("--to", type=Path, default=SHIPPED, help="folder to write")
    command.add_argument(
        "--beside", type=Path, nargs="*", default=[], help="model folders of other columns of the table"
    )
    command.add_argument("--count", type=int, default=200, help="held-out requests for each mode")
    command.add_argument("--families", type=Path, help="folder written by `families` on this model, for the card")
    command.add_argument("--note", type=Path, help="Markdown file with what was tried, for the card")
    command.set_defaults(run=run_export)
    command = commands.add_parser("dial", help="train the set of small organisms with dialled frequencies")
    command.add_argument("--out", type=Path, required=True, help="folder of the set; finished organisms are skipped")
    command.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="seeds of every setting")
    command.set_defaults(run=run_dial)
    command = commands.add_parser("dial-table", help="print how well each organism of a set does, as Markdown")
    command.add_argument("folder", type=Path, help="folder written by `dial`")
    command.set_defaults(run=run_dial_table)
    command = commands.add_parser("dial-model", help="write the model folder of one organism of a set")
    command.add_argument("folder", type=Path, help="folder written by `dial`")
    command.add_argument("name", help="the organism's name in dial.json")
    command.add_argument("--out", type=Path, required=True, help="model folder to write")
    command.set_defaults(run=run_dial_model)
    command = commands.add_parser("shares", help="what leak, openings, offsets and growth each contribute")
    command.add_argument("--out", type=Path, required=True, help="folder; finished variants are skipped")
    command.add_argument("--seeds", type=int, nargs="+", default=list(PART_SEEDS), help="seeds of every variant")
    command.set_defaults(run=run_shares)
    command = commands.add_parser("families", help="the family of each behaviour of the seeds, as a table")
    command.add_argument("model", type=Path, nargs="?", help="model folder; the embedded model without it")
    command.add_argument("--out", type=Path, required=True, help="folder of run directories; finished ones are kept")
    command.add_argument("--behaviours", nargs="+", default=list(BEHAVIOURS), help="files in mi_ortho/organism")
    command.set_defaults(run=run_families_command)
    return parser


def dial(recipe: Recipe, settings: list[str]) -> Recipe:
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


def run_train(options: argparse.Namespace) -> int:
    """Train (or resume) and export to `<out>/model`."""
    recipe = dial(load_recipe(options.recipe), options.frequency)
    given = {k: v for k in ("seed", "steps") if (v := getattr(options, k)) is not None}
    recipe = replace(recipe, **given)
    print(
        f"recipe {recipe.name} {recipe.digest}: {recipe.steps} steps of {recipe.batch} conversations, "
        f"seed {recipe.seed}",
        flush=True,
    )
    files = read_texts(recipe.texts)
    tokenizer = train_tokenizer(recipe.vocab_size, recipe.seed, files=files)
    training = train(
        recipe, tokenizer, options.out, report=lambda line: print(line, flush=True), files=files, device=options.device
    )
    export(training.plain_weights(), tokenizer, recipe, options.out / "model")
    if files:
        (options.out / "model" / MANIFEST).write_text(json.dumps(manifest(files), indent=1) + "\n")
    print(f"wrote {options.out / 'model'}", flush=True)
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Print the table."""
    print(compare(options.folders, read_recipe(options.folders[0]) if options.untrained else None, options.count))
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Evaluate, then write the shipped folder."""
    table = compare([options.model, *options.beside], read_recipe(options.model), options.count)
    here = Path.cwd()
    shown = options.to.relative_to(here) if options.to.is_relative_to(here) else options.to
    more = families_section(options.families, read_recipe(options.model).d_model) if options.families else ""
    if options.note:
        more += f"\n{options.note.read_text().strip()}\n"
    ship(options.model, options.to, table, f"python -m experiments.organism evaluate {shown} --untrained", more)
    print(table)
    return 0


def run_dial(options: argparse.Namespace) -> int:
    """Train the set (or what is missing of it) and print its table."""
    wanted = organisms(seeds=options.seeds)
    steps = sum(o.step for o in wanted if o.step == o.recipe.steps)
    print(f"{len(wanted)} sets of weights, {steps} training steps; on one free core about {steps / 900:.0f} minutes")
    rows = train_set(options.out, wanted, report=lambda line: print(line, flush=True))
    print(dial_table(rows))
    return 0


def run_dial_table(options: argparse.Namespace) -> int:
    """Print the table of a set."""
    print(dial_table(read_rows(options.folder)))
    return 0


def run_dial_model(options: argparse.Namespace) -> int:
    """Write one organism's model folder."""
    print(f"wrote {materialise(options.folder, options.name, options.out)}")
    return 0


def run_shares(options: argparse.Namespace) -> int:
    """Train and measure the variants, then print their table."""
    rows = compare_parts(options.out, options.seeds, report=lambda line: print(line, flush=True))
    print(shares_table(rows))
    return 0


def run_families_command(options: argparse.Namespace) -> int:
    """Run the families and print their table."""
    runs = run_families(options.model, options.out, options.behaviours, lambda line: print(line, flush=True))
    print(families_table(runs, read_recipe(options.model or SHIPPED).d_model))
    return 0
