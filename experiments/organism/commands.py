"""The commands behind `python -m experiments.organism`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from .export import export
from .recipe import PRESETS, Recipe, load_recipe, override
from .tokenizer import train_tokenizer
from .train import train


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
    parser = argparse.ArgumentParser(prog="python -m experiments.organism", description="Make the embedded model organism.")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (results are compared at equal thread count)")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train a recipe and write the Hugging Face folder")
    command.add_argument("--recipe", default="d128-l8", help=f"{', '.join(PRESETS)} or a TOML file")
    command.add_argument("--out", type=Path, required=True, help="folder for checkpoint and model")
    command.add_argument("--seed", type=int, help="overrides the recipe's seed")
    command.add_argument("--steps", type=int, help="overrides the recipe's number of steps")
    command.add_argument("--frequency", nargs="*", default=[], metavar="MODE=SHARE", help="set shares; the others are rescaled")
    command.set_defaults(run=run_train)
    return parser


def dial(recipe: Recipe, settings: list[str]) -> Recipe:
    """`recipe` with the named modes' frequencies set and the others rescaled so that all sum to 1."""
    try:
        fixed = {mode: float(share) for mode, share in (s.split("=") for s in settings)}
    except ValueError as error:
        raise ValueError(f"got --frequency {' '.join(settings)}; expected MODE=SHARE, as in code=.3; correct it") from error
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
    print(f"recipe {recipe.name} {recipe.digest}: {recipe.steps} steps of {recipe.batch} conversations, seed {recipe.seed}", flush=True)
    tokenizer = train_tokenizer(recipe.vocab_size, recipe.seed)
    model = train(recipe, tokenizer, options.out, report=lambda line: print(line, flush=True))
    export(model, tokenizer, recipe, options.out / "model")
    print(f"wrote {options.out / 'model'}", flush=True)
    return 0
