"""What studies share: the subject, positions as settings name them, progress, and how a command is begun."""
