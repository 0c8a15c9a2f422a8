"""`python -m mi_ortho.cli`."""

import sys

from mi_ortho.cli import main

if __name__ == "__main__":
    sys.exit(main())
