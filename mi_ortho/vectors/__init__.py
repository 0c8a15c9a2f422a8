"""Steering vectors as files: with the site and model they belong to, and for other programs."""

from mi_ortho.vectors.export import export_gguf, export_lm_eval, position_note
from mi_ortho.vectors.files import SteeringVectors, header, load_vectors, save_vectors

__all__ = [
    "SteeringVectors",
    "export_gguf",
    "export_lm_eval",
    "header",
    "load_vectors",
    "position_note",
    "save_vectors",
]
