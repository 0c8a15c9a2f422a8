from .behaviours import GENERIC_MODES, Mode, Modes, classify, is_code, is_refusal, load_modes
from .derivatives import gauss_newton, jacobian, pullback
from .effects import kl_divergence, log_likelihood, masked_mean, rate_interval
from .elicitation import (
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
from .interventions import Ablate, Add, Intervention, Rotate, RotateTo, When
from .model import (
    Model,
    Prompts,
    Slice,
    answer_logits,
    generate,
    intervene,
    load,
    logit_slice,
    next_token_logits,
    read,
    slice_model,
    tokenize,
)
from .nulls import (
    LinearNull,
    capacity_bound,
    covariance_matched,
    linear_null,
    random_in_span,
    with_norms,
)
from .objectives import (
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
from .runs import Run, RunError, Verdict, open_run, start
from .search import Feasible, Lbfgs, SearchResult, Status, minimise
from .settings import FamilyConfig
from .sites import Site, attn_out, attn_pattern, mlp_out, resid_mid, resid_post, resid_pre
from .subspace import (
    Subspace,
    cosine_matrix,
    empty_subspace,
    max_abs_cosine,
    orthonormal_rows,
    principal_angles,
    span,
)
from .vectors import SteeringVectors, load_vectors, save
