"""One file for each claim: what is predicted, what was measured, and what would refute it.

`python -m experiments --list` names them; `ORDER` is the order in which `all` runs them.
"""

import ast
from pathlib import Path

ORDER = (
    "more_vectors_than_a_linear_response_allows",
    "linear_null_explains_the_family",
    "second_order_count_matches_the_measured_count",
    "vectors_work_on_other_prompts",
    "vectors_share_the_mean_difference",
    "one_gradient_explains_every_vector",
    "means_scaled_by_root_n_keep_the_effect",
    "effects_compose_like_a_quadratic_form",
    "effects_grow_faster_than_the_dose",
    "vectors_of_the_bases_norm_are_as_many",
    "supervised_base_has_a_smaller_family",
    "one_shared_direction_carries_the_effect",
    "families_belong_to_what_the_base_does",
    "plain_means_work_on_harmless_prompts",
    "restarts_recover_failed_vectors",
    "published_loop_stops_short_of_the_optimum",
    "exact_orthogonality_changes_nothing",
    "last_token_divergence_ranks_the_vectors",
    "the_norm_makes_vectors_overlap",
    "mid_layer_effects_form_clusters",
    "each_vector_promotes_its_own_token",
    "matched_directions_move_more_than_isotropic",
    "vectors_are_present_while_code_is_written",
    "probes_after_projection_are_as_many_as_vectors",
    "derivatives_are_local",
    "correct_linear_factors_beat_the_published_columns",
    "outputs_repeat_more_than_inputs",
    "late_output_directions_are_tokens",
    "differential_objective_finds_what_paired_prompts_share",
    "local_and_global_jacobians_agree",
    "ablation_works_away_from_its_layer",
    "layer_statistics_choose_the_layer",
    "weak_directions_refuse_then_answer",
    "repeated_extraction_finds_more_directions",
    "a_newline_replaces_the_template",
    "refusal_is_not_harmfulness",
    "steering_acts_by_angle_not_length",
    "addition_reaches_half_of_the_circle",
    "variance_grows_along_depth",
    "layers_share_directions",
    "layers_are_one_space",
    "activations_are_euclidean",
    "frequent_behaviours_have_more_vectors",
    "early_checkpoints_have_more_vectors",
)


def listing() -> list[str]:
    """One line an experiment: its name and claim, read from the files' texts, for importing them takes seconds."""
    folder = Path(__file__).parent
    texts = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in ORDER}
    claims = {name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0] for name, text in texts.items()}
    return [f"{name:56} {claim.rstrip('.')}" for name, claim in claims.items()]
