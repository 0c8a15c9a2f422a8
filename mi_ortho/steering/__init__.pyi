from .coherence import mean_log_probability
from .completions import Completion, Setting, complete, judged_by_answers, unsteered_completions
from .export import export_gguf, export_lm_eval, position_note
from .files import SteeringVectors, header, load_vectors, save_vectors
from .measures import Yardstick, divergences, log_odds, measure, measure_graded, yardstick
from .posterior import ModePosterior, mode_posterior, natural_openings

__all__ = [
    "Completion",
    "ModePosterior",
    "Setting",
    "SteeringVectors",
    "Yardstick",
    "complete",
    "divergences",
    "export_gguf",
    "export_lm_eval",
    "header",
    "judged_by_answers",
    "load_vectors",
    "log_odds",
    "mean_log_probability",
    "measure",
    "measure_graded",
    "mode_posterior",
    "natural_openings",
    "position_note",
    "save_vectors",
    "unsteered_completions",
    "yardstick",
]
