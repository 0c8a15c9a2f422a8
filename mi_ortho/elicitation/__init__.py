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
    unsteered,
)
from mi_ortho.elicitation.orthogonal import Goal, OrthoSettings, Progress, complement_inverse, melbo_ortho
from mi_ortho.elicitation.published import melbo_ortho_published, melbo_published
from mi_ortho.elicitation.search import (
    Feasible,
    Lbfgs,
    Precondition,
    SearchResult,
    Status,
    minimise,
    value_and_gradient,
)
from mi_ortho.elicitation.shortest import shrink
from mi_ortho.elicitation.starts import random_vectors

__all__ = [
    "unsteered",
    "value_and_gradient",
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
