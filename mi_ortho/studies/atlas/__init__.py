"""The command `atlas`: which pairs of layers and which norms are worth a family."""
