"""The console script `mi-ortho`. Commands that make runs are in the folders of their studies.

Heavy imports wait until a command runs, so that --help is instant.
"""

import sys
from collections.abc import Sequence

import cyclopts

from mi_ortho.cli import doctor, experiment, runs
from mi_ortho.cli.configuration import settings_files
from mi_ortho.cli.last_resort import is_memory, short, unforeseen
from mi_ortho.cli.quiet import only_our_lines
from mi_ortho.studies.overview.commands import register
from mi_ortho.studies.shared.command import app

OWN = (doctor, experiment, runs)  # importing a file adds its commands to the application
register()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Mistakes print one line and give exit code 2; an interruption gives 130."""
    try:
        rest, app.config = settings_files(list(sys.argv[1:] if arguments is None else arguments))
        with only_our_lines():
            app(rest, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return _mistake(" ".join(str(error).split()))
    except ValueError as error:
        return _mistake(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        return 0
    except Exception as error:
        if is_memory(error):
            return _mistake(f"out of memory ({short(error)}); use a smaller --block or --batch, or --dtype bfloat16")
        print(f"mi-ortho: {unforeseen(error)}", file=sys.stderr)
        return 1
    return 0


def _mistake(line: str) -> int:
    print(f"mi-ortho: {line}", file=sys.stderr)
    return 2
