"""The command `refusal`: extract, select, ablate, compare."""
