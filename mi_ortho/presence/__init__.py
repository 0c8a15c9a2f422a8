"""Presence of a family's vectors in real activations: texts, streams, contrasts, records, findings."""

from mi_ortho.presence.asking import Request, requests
from mi_ortho.presence.family_vectors import FamilyVectors, newest_family, open_family
from mi_ortho.presence.library import Pair, library_pairs, library_prose
from mi_ortho.presence.passages import GROUPS, Passage, read_passages, real_passages, write_passages

__all__ = [
    "GROUPS",
    "FamilyVectors",
    "Pair",
    "Passage",
    "Request",
    "library_pairs",
    "library_prose",
    "newest_family",
    "open_family",
    "read_passages",
    "real_passages",
    "requests",
    "write_passages",
]
