"""Speed and quality beside the published loops, in one process: `python -m benchmarks`."""
