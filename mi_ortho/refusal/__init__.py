"""Refusal directions: extraction, selection, measures, and more than one direction (Arditi et al. 2024)."""
