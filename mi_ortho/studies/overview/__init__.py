"""Commands on finished runs: reports, an index, comparisons, exports."""
