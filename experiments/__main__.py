"""`python -m experiments`: list the claims, run them, and write the result pages."""

import sys

from experiments.lab.program import main

sys.exit(main())
