"""Refusal directions: extraction, selection, measures, and more than one direction (Arditi et al. 2024)."""

from mi_ortho.refusal.concepts import affine_edit, least_squares_erasure, steering_plane
from mi_ortho.refusal.cones import Cone, ConeSettings, ConeTargets, cone_targets, refusal_cone
from mi_ortho.refusal.damage import Coherence, Damage, coherence, measure_damage, mode_accuracy, repetition, token_costs
from mi_ortho.refusal.extraction import (
    Extraction,
    Moments,
    Suffix,
    activation_batches,
    activations,
    difference_of_means,
    instruction_suffix,
    moments,
    residual_sites,
)
from mi_ortho.refusal.places import ablate_everywhere, add_at, at_every, depth
from mi_ortho.refusal.prompt_sets import PromptSet, load_prompts, own_prompts
from mi_ortho.refusal.rankings import Ranking, compare_rankings, projections, ranking_scores, roc_auc
from mi_ortho.refusal.scores import (
    Phrase,
    RefusalTokens,
    after_refusal,
    find_refusal,
    last_logits,
    refusal_score,
    refusal_scores,
    refusal_tokens,
    refuses_anywhere,
    refuses_first,
    stage_of,
    substantial,
)
from mi_ortho.refusal.selection import (
    Candidate,
    Filtered,
    Limits,
    Selection,
    Validation,
    candidates,
    filter_prompts,
    reasons,
    score_direction,
    select,
    validation,
)
from mi_ortho.refusal.several import ProbeRound, Round, extract_again, largest_difference, null_space_rounds

__all__ = [
    "Candidate", "Coherence", "Cone", "ConeSettings", "ConeTargets", "Damage", "Extraction", "Filtered", "Limits",
    "Moments", "Phrase", "ProbeRound", "PromptSet", "Ranking", "RefusalTokens", "Round", "Selection", "Suffix",
    "Validation", "ablate_everywhere", "activation_batches", "activations", "add_at", "affine_edit", "after_refusal",
    "at_every", "candidates", "coherence", "compare_rankings", "cone_targets", "depth", "difference_of_means",
    "extract_again", "filter_prompts", "find_refusal", "instruction_suffix", "largest_difference", "last_logits",
    "least_squares_erasure", "load_prompts", "measure_damage", "mode_accuracy", "moments", "null_space_rounds",
    "own_prompts", "projections", "ranking_scores", "reasons", "refusal_cone", "refusal_score", "refusal_scores",
    "refusal_tokens", "refuses_anywhere", "refuses_first", "repetition", "residual_sites", "roc_auc",
    "score_direction", "select", "stage_of", "steering_plane", "substantial", "token_costs", "validation",
]  # fmt: skip
