"""The command `geometry`: what the layers of a model look like, and verdicts on claims about them."""
