"""One folder a command: its settings, stages, verdicts and page. Nothing is imported here, so settings load at once."""
