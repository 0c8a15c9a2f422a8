"""MELBO and MELBO-ortho: steering vectors that change a model most, and orthogonal ones that repeat such a change."""

from mi_ortho.elicitation.displacing import melbo
from mi_ortho.elicitation.orthogonal import Goal, OrthoSettings, Progress, complement_inverse, melbo_ortho
from mi_ortho.elicitation.published import melbo_ortho_published, melbo_published
from mi_ortho.elicitation.shortest import shrink
from mi_ortho.elicitation.starts import random_vectors

__all__ = [
    "Goal",
    "OrthoSettings",
    "Progress",
    "complement_inverse",
    "melbo",
    "melbo_ortho",
    "melbo_ortho_published",
    "melbo_published",
    "random_vectors",
    "shrink",
]
