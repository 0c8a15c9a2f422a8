"""Derivatives of an activation map: first, second, spectra, and means over tokens and prompts."""
