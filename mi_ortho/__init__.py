"""Why can one behaviour of a language model have hundreds of mutually orthogonal steering vectors?

`mi_ortho` finds such families on any model TransformerLens loads, measures every vector beside its controls, and
compares them with what simpler explanations predict. Everything is built on one frozen function
z: steering vector -> activations (see `slice_model`), so every algorithm also runs on closed-form maps.
"""

from jaxtyping import install_import_hook

import mi_ortho.typecheck  # noqa: F401 (the checker itself cannot be checked by its own hook)

with install_import_hook("mi_ortho", "mi_ortho.typecheck.check"):
    from mi_ortho.effects import kl_divergence, log_likelihood, masked_mean, rate_interval
    from mi_ortho.jacobian import gauss_newton, jacobian, pullback
    from mi_ortho.melbo import (
        OrthoSettings,
        Progress,
        calibrate_radius,
        melbo,
        melbo_ortho,
        melbo_ortho_published,
        melbo_published,
        random_vectors,
        shrink,
    )
    from mi_ortho.nulls import (
        LinearNull,
        capacity_bound,
        covariance_matched,
        linear_null,
        random_in_span,
        with_norms,
    )
    from mi_ortho.objectives import (
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
    from mi_ortho.search import Feasible, Lbfgs, SearchResult, Status, minimise
    from mi_ortho.subspace import (
        Subspace,
        cosine_matrix,
        empty_subspace,
        max_abs_cosine,
        orthonormal_rows,
        principal_angles,
        span,
    )
