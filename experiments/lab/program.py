"""What the command line of the experiments does: `mi-ortho experiment` and `python -m experiments`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.lab.bases import at_model
from experiments.lab.claims import Experiment, changed, load, names
from experiments.lab.earlier import write_earlier
from experiments.lab.expected import expected, page, write_expected
from experiments.lab.paper import write_paper
from experiments.lab.performing import finished_run, judge_again
from experiments.lab.post import finished, replicate, replication
from experiments.lab.post_page import write_post
from experiments.lab.presets import Preset, read_preset
from experiments.lab.results import correct, read_entries, write_results
from experiments.lab.workers import Outcome, Task, in_processes, on_ray, one_by_one
from mi_ortho.cli.experiment import Choices
from mi_ortho.studies.shared import device_of

FIRST = "frequent_behaviours_have_more_vectors"  # of several workers: it trains for long, and the others run meanwhile
PUBLISHED = "qwen1.5-1.8b-chat"
STANDARD = "embedded"  # whose runs tell what others should take
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def run(words: Sequence[str], choices: Choices) -> int:
    """Run the named experiments (or `all`, `results`, `expected`, `post`); returns the exit code."""
    _check(choices)
    if list(words) == ["results"]:
        return results(choices)
    if list(words) == ["expected"]:
        return calculated(choices)
    if list(words) == ["post"]:
        return post(choices)
    return run_all([load(name) for name in (names() if list(words) == ["all"] else words)], choices)


def _check(choices: Choices) -> None:
    for name in ("workers", "threads"):
        if getattr(choices, name) < 1:
            raise ValueError(f"got --{name} {getattr(choices, name)}; expected at least 1; change it")
    device_of(choices.device)
    if choices.ray and choices.workers > 1:
        raise ValueError("got --workers and --ray; expected one of them, as a cluster has its own workers; drop one")


def config_of(experiment: Experiment, choices: Choices) -> Any:
    """The standard or smallest configuration with the settings asked for."""
    config = experiment.smoke if choices.smoke else experiment.config
    preset = preset_of(choices)
    config = preset.configured(config, smoke=choices.smoke) if preset else config
    config = at_model(config, choices.model, smoke=choices.smoke) if choices.model else config
    return changed(config, choices.settings)


def preset_of(choices: Choices) -> Preset | None:
    """The preset asked for."""
    return read_preset(choices.preset) if choices.preset else None


def run_all(experiments: Sequence[Experiment], choices: Choices) -> int:
    """Run experiments and continue unfinished ones; finished ones are skipped. Names those that failed at the end."""
    tasks = [
        Task(
            one.name,
            config_of(one, choices),
            choices.out.absolute() if choices.ray else choices.out,
            choices.fresh,
            choices.threads,
            preset_of(choices),
            choices.device,
        )
        for one in experiments
    ]
    several = choices.workers > 1 and len(tasks) > 1
    if several or choices.ray:
        tasks.sort(key=lambda task: task.name != FIRST)
    run = on_ray(choices.ray) if choices.ray else in_processes(choices.workers) if several else one_by_one
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


def calculated(choices: Choices) -> int:
    """Print what a preset should take, from finished standard runs."""
    preset = preset_of(choices)
    if preset is None:
        raise ValueError("got expected without --preset; expected one, as its size is what counts; name it")
    every = [(one, at_model(one.config, STANDARD)) for one in map(load, names())]
    runs = {one: run for one, config in every if (run := finished_run(one, config, choices.out))}
    print(page(expected(runs, preset), preset))
    return 0


def post(choices: Choices) -> int:
    """Repeat the published experiment on a model, and write its page."""
    what, to = replication(choices.model), choices.to or RESULTS
    replicate(what, choices.out, workers=choices.workers, threads=choices.threads, device=choices.device)
    print(write_post(what, list(finished(what, choices.out)), to))
    return 0


def results(choices: Choices) -> int:
    """Write the result pages from finished runs; names what is missing."""
    loaded, to = [load(name) for name in names()], choices.to or RESULTS
    runs = [(one, finished_run(one, config_of(one, choices), choices.out, preset_of(choices))) for one in loaded]
    done = [(one, run) for one, run in runs if run is not None]
    for one, run in done:
        judge_again(one, run)
    for path in write_results(done, to):
        print(path)
    corrected = correct(read_entries(to))
    for path in [*write_paper(corrected, to), write_earlier(corrected, to)] if corrected else []:
        print(path)
    if len(done) == len(loaded) and preset_of(choices) is None and choices.model == STANDARD and not choices.smoke:
        print(write_expected(dict(done), read_preset(PUBLISHED), to))
    with_model = f" --model {choices.model}" if choices.model else ""
    commands = [f"{one.command}{with_model}" for one, run in runs if run is None]
    if commands:
        print(
            f"experiments: no finished run of {len(commands)} experiments; run first: {'; '.join(commands)}",
            file=sys.stderr,
        )
    return 2 if commands else 0
