"""The command line of the experiments."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import listing
from experiments.lab.claims import Experiment, changed, load, names
from experiments.lab.expected import expected, page, write_expected
from experiments.lab.paper import write_paper
from experiments.lab.performing import finished_run
from experiments.lab.presets import Preset, read_preset
from experiments.lab.results import write_results
from experiments.lab.workers import Outcome, Task, in_processes, on_ray, one_by_one
from mi_ortho.studies.shared import device_of

FIRST = "frequent_behaviours_have_more_vectors"  # of several workers: it trains for long, and the others run meanwhile
PUBLISHED = "qwen1.5-1.8b-chat"
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Mistakes print one line and give exit code 2; an interruption gives 130."""
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        if options.list or not options.names:
            print("\n".join(listing()))
        elif options.names == ["results"]:
            return results(options)
        elif options.names == ["expected"]:
            return calculated(options)
        else:
            chosen = list(names()) if options.names == ["all"] else options.names
            return run_all([load(name) for name in chosen], options)
    except ValueError as error:
        print(f"experiments: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130
    return 0


def _check(options: argparse.Namespace) -> None:
    for name in ("workers", "threads"):
        if getattr(options, name) < 1:
            raise ValueError(f"got --{name} {getattr(options, name)}; expected at least 1; change it")
    device_of(options.device)
    if options.ray and options.workers > 1:
        raise ValueError("got --workers and --ray; expected one of them, as a cluster has its own workers; drop one")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=main.__doc__ and __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments to run, `all`, `results`, or `expected`")
    parser.add_argument("--list", action="store_true", help="name every experiment with its claim")
    parser.add_argument("--smoke", action="store_true", help="the smallest setting, in seconds")
    parser.add_argument("--model", default=None, help="a name or folder instead of the embedded model")
    parser.add_argument("--preset", default=None, metavar="NAME", help="settings and prompts of a published experiment")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder that run directories are made in")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of a setting")
    parser.add_argument("--fresh", action="store_true", help="measure again what is finished")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each worker")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps: where the model lies")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a model of its own")
    parser.add_argument("--ray", default=None, metavar="ADDRESS", help="run on a Ray cluster: its address, or auto")
    parser.add_argument("--to", type=Path, default=RESULTS, help="folder of the result pages")
    return parser


def config_of(experiment: Experiment, options: argparse.Namespace) -> Any:
    """The standard or smallest configuration with the settings asked for."""
    config = experiment.smoke if options.smoke else experiment.config
    preset = preset_of(options)
    config = preset.configured(config, smoke=options.smoke) if preset else config
    config = replace(config, model=options.model) if options.model else config
    return changed(config, options.set)


def preset_of(options: argparse.Namespace) -> Preset | None:
    """The preset asked for."""
    return read_preset(options.preset) if options.preset else None


def run_all(chosen: Sequence[Experiment], options: argparse.Namespace) -> int:
    """Run experiments and continue unfinished ones; finished ones are skipped. Names those that failed at the end."""
    tasks = [
        Task(
            one.name,
            config_of(one, options),
            options.out.absolute() if options.ray else options.out,
            options.fresh,
            options.threads,
            preset_of(options),
            options.device,
        )
        for one in chosen
    ]
    several = options.workers > 1 and len(tasks) > 1
    if several or options.ray:
        tasks.sort(key=lambda task: task.name != FIRST)
    run = on_ray(options.ray) if options.ray else in_processes(options.workers) if several else one_by_one
    failed: list[Outcome] = []
    numbers = iter(range(1, len(tasks) + 1))

    def tell(outcome: Outcome) -> None:
        lines = outcome.lines or (f"failed: {outcome.error}",)
        print("\n".join([f"[{next(numbers)}/{len(tasks)}] {outcome.name}", *lines]), flush=True)
        failed.extend([outcome] * bool(outcome.error))

    run(tasks, tell)
    if failed:
        print(
            f"experiments: {len(failed)} of {len(tasks)} failed; correct what is named and run the same command, "
            "which continues:",
            file=sys.stderr,
        )
        print("\n".join(f"  {one.name}: {one.error}" for one in failed), file=sys.stderr)
        return 2
    print("next: python -m experiments results    (writes docs/results from finished runs)")
    return 0


def calculated(options: argparse.Namespace) -> int:
    """Print what a preset should take, from finished standard runs."""
    preset = preset_of(options)
    if preset is None:
        raise ValueError("got expected without --preset; expected one, as its size is what counts; name it")
    found = {one: run for one in map(load, names()) if (run := finished_run(one, one.config, options.out))}
    print(page(expected(found, preset), preset))
    return 0


def results(options: argparse.Namespace) -> int:
    """Write the result pages from finished runs; names what is missing."""
    loaded = [load(name) for name in names()]
    found = [(one, finished_run(one, config_of(one, options), options.out, preset_of(options))) for one in loaded]
    done = [(one, run) for one, run in found if run is not None]
    for path in write_results(done, options.to):
        print(path)
    if len(done) == len(loaded) and preset_of(options) is None and options.model is None and not options.smoke:
        print(write_paper({one.name: run for one, run in done}, options.to))
        print(write_expected(dict(done), read_preset(PUBLISHED), options.to))
    missing = [one.command for one, run in found if run is None]
    if missing:
        print(
            f"experiments: no finished run of {len(missing)} experiments; run first: {'; '.join(missing)}",
            file=sys.stderr,
        )
    return 2 if missing else 0
