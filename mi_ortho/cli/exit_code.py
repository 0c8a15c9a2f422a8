"""How every program of the repository ends: mistakes are one line and code 2, an interruption is code 130."""

import sys
from collections.abc import Callable, Sequence

import cyclopts


def exit_code(program: str, command: Callable[[], object]) -> int:
    """Run a command; its exit code is the number it returns, 0 when it returns none."""
    try:
        code = command()
    except (cyclopts.CycloptsError, ValueError) as error:
        return mistake(program, str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def parsed(program: str, app: cyclopts.App, arguments: Sequence[str] | None = None) -> int:
    """Run an application on arguments, those of this process by default."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return exit_code(program, lambda: app(words, exit_on_error=False, print_error=False, result_action="return_value"))


def mistake(program: str, text: str) -> int:
    """Print a mistake on one line; returns the exit code, 2."""
    print(f"{program}: {' '.join(text.split())}", file=sys.stderr)
    return 2
