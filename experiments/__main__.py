"""`python -m experiments`: list the claims, run them, and write the result pages."""

import sys

from experiments import listing

if sys.argv[1:] in ([], ["--list"]):  # without importing the experiments, which takes seconds
    print("\n".join(listing()))
    sys.exit(0)

from experiments.lab.program import main  # noqa: E402

sys.exit(main())
