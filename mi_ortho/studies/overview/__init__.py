"""What can be done with finished runs: reports, an index, comparisons, exports."""
