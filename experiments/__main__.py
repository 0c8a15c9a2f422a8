"""`python -m experiments`: list the claims, run them, and write the result pages."""

import sys
from collections.abc import Sequence

from cyclopts import App, Parameter

from mi_ortho.cli.exit_code import parsed
from mi_ortho.cli.experiment import experiment

app = App(
    name="python -m experiments",
    help_format="plaintext",
    version_flags=[],
    suppress_keyboard_interrupt=False,  # it gives exit code 130
    default_parameter=Parameter(consume_multiple=True),
)
app.default(experiment)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Mistakes print one line and give exit code 2; an interruption gives 130."""
    return parsed("experiments", app, arguments)


if __name__ == "__main__":
    sys.exit(main())
