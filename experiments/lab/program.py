"""The command line of the experiments."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments import listing
from experiments.lab.claims import Experiment, changed, load, names
from experiments.lab.performing import WORDS, finished_run, perform, verdicts_of
from experiments.lab.results import write_results
from mi_ortho import Run, open_subject
from mi_ortho.viz.text import number

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Mistakes print one line and give exit code 2; an interruption gives 130."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.list or not options.names:
            print("\n".join(listing()))
        elif options.names == ["results"]:
            return results(options)
        else:
            chosen = list(names()) if options.names == ["all"] else options.names
            run_all([load(name) for name in chosen], options)
    except ValueError as error:
        print(f"experiments: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=main.__doc__ and __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments to run, `all`, or `results`")
    parser.add_argument("--list", action="store_true", help="name every experiment with its claim")
    parser.add_argument("--smoke", action="store_true", help="the smallest setting, in seconds")
    parser.add_argument("--model", default=None, help="a name or folder instead of the embedded model")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder that run directories are made in")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of a setting")
    parser.add_argument("--fresh", action="store_true", help="measure again what is finished")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--to", type=Path, default=RESULTS, help="folder of the result pages")
    return parser


def config_of(experiment: Experiment, options: argparse.Namespace) -> Any:
    """The standard or smallest configuration with the settings asked for."""
    config = experiment.smoke if options.smoke else experiment.config
    config = replace(config, model=options.model) if options.model else config
    return changed(config, options.set)


def run_all(chosen: Sequence[Experiment], options: argparse.Namespace) -> None:
    """Run experiments one after the other on one loaded model; finished ones are skipped."""
    configs = [config_of(experiment, options) for experiment in chosen]
    waiting = [
        config for one, config in zip(chosen, configs) if options.fresh or not finished_run(one, config, options.out)
    ]
    subject = open_subject(options.model) if waiting else None
    for k, (experiment, config) in enumerate(zip(chosen, configs)):
        run = perform(experiment, config, options.out, subject=subject, fresh=options.fresh, say=print, track=_progress)
        print(f"[{k + 1}/{len(chosen)}] report: {run.path / 'report.html'}")
        print("\n".join(verdict_lines(run)), flush=True)
    print("next: python -m experiments results    (writes docs/results from finished runs)")


def verdict_lines(run: Run) -> list[str]:
    """The verdicts of a run as plain lines."""
    return [f"  {WORDS[found['supported']]:14} {found['claim']}: {number(found['value'])} "
            f"(threshold {number(found['threshold'])}, control {number(found['control'])})"
            for found in verdicts_of(run)]  # fmt: skip


def results(options: argparse.Namespace) -> int:
    """Write the result pages from finished runs; names what is missing."""
    loaded = [load(name) for name in names()]
    found = [(one, finished_run(one, config_of(one, options), options.out)) for one in loaded]
    done = [(one, run) for one, run in found if run is not None]
    for path in write_results(done, options.to):
        print(path)
    missing = [one.command for one, run in found if run is None]
    if missing:
        print(
            f"experiments: no finished run of {len(missing)} experiments; run first: {'; '.join(missing)}",
            file=sys.stderr,
        )
    return 2 if missing else 0


def _progress(stage: str, done: int, total: int) -> None:
    print(f"  {stage}: {done}/{total}", flush=True)
