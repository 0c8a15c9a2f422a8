"""How many things a family really is, and how an effect answers to strength, sums and signs."""
