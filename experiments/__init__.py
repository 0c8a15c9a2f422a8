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
    "derivatives_are_local",
    "correct_linear_factors_beat_the_published_columns",
    "outputs_repeat_more_than_inputs",
    "late_output_directions_are_tokens",
    "differential_objective_finds_what_paired_prompts_share",
    "local_and_global_jacobians_agree",
    "ablation_works_away_from_its_layer",
    "layer_statistics_choose_the_layer",
    "variance_grows_along_depth",
    "layers_share_directions",
    "layers_are_one_space",
    "activations_are_euclidean",
)


def listing() -> list[str]:
    """One line an experiment: its name and claim, read from the files' texts, for importing them takes seconds."""
    folder = Path(__file__).parent
    texts = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in ORDER}
    claims = {name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0] for name, text in texts.items()}
    return [f"{name:56} {claim.rstrip('.')}" for name, claim in claims.items()]
