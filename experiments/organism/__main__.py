"""Command line: `python -m experiments.organism train|evaluate|export ...`."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
