"""MELBO and MELBO-ortho: steering vectors that change a model most, and orthogonal ones that repeat such a change."""

from mi_ortho.elicitation.displacing import melbo
from mi_ortho.elicitation.objectives import (
    ActivationMap,
    Displace,
    FunctionMap,
    LinearMap,
    Match,
    MatchDistribution,
    Objective,
    Penalised,
    displace,
    match,
    match_distribution,
)
from mi_ortho.elicitation.orthogonal import Goal, OrthoSettings, Progress, complement_inverse, melbo_ortho
from mi_ortho.elicitation.published import melbo_ortho_published, melbo_published
from mi_ortho.elicitation.search import Feasible, Lbfgs, Precondition, SearchResult, Status, minimise
from mi_ortho.elicitation.shortest import shrink
from mi_ortho.elicitation.starts import random_vectors

__all__ = [
    "ActivationMap",
    "Displace",
    "Feasible",
    "FunctionMap",
    "Goal",
    "Lbfgs",
    "LinearMap",
    "Match",
    "MatchDistribution",
    "Objective",
    "OrthoSettings",
    "Penalised",
    "Precondition",
    "Progress",
    "SearchResult",
    "Status",
    "complement_inverse",
    "displace",
    "match",
    "match_distribution",
    "melbo",
    "melbo_ortho",
    "melbo_ortho_published",
    "melbo_published",
    "minimise",
    "random_vectors",
    "shrink",
]
