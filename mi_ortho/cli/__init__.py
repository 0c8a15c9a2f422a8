"""The console script `mi-ortho`. Commands that make runs are in the folders of their studies.

Heavy imports wait until a command runs, so that --help is instant.
"""

import os
import sys
from collections.abc import Sequence

from mi_ortho.cli import doctor, experiment, runs
from mi_ortho.cli.configuration import settings_files
from mi_ortho.cli.exit_code import exit_code, mistake
from mi_ortho.cli.last_resort import is_memory, short, unforeseen
from mi_ortho.cli.quiet import only_our_lines
from mi_ortho.studies.overview.commands import register
from mi_ortho.studies.shared.command import app

PROGRAM = "mi-ortho"
OWN = (doctor, experiment, runs)  # importing a file adds its commands to the application
register()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Mistakes print one line and give exit code 2; an interruption gives 130."""

    def command() -> object:
        rest, sources = settings_files(list(sys.argv[1:] if arguments is None else arguments))
        before, app.config = app.config, sources
        try:
            with only_our_lines():
                return app(rest, exit_on_error=False, print_error=False, result_action="return_value")
        finally:
            app.config = before  # the next command of this process reads files of its own

    # Threads that wait without spinning: beside a busy program two are then about .8 times as fast as one, not .45.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
    try:
        return exit_code(PROGRAM, command)
    except Exception as error:
        if is_memory(error):
            more = "use a smaller --block or --batch, or --dtype bfloat16"
            return mistake(PROGRAM, f"out of memory ({short(error)}); {more}")
        print(f"{PROGRAM}: {unforeseen(error)}", file=sys.stderr)
        return 1
