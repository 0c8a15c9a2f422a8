"""The commands `family` and `melbo`: from a prompt to an orthogonal family, measured beside its controls."""
