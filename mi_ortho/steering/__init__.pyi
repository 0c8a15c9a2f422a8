from .completions import Completion, Setting, complete, unsteered_completions
from .export import export_gguf, export_lm_eval, position_note
from .files import SteeringVectors, header, load_vectors, save_vectors
from .measures import Yardstick, divergences, log_odds, measure, yardstick

__all__ = [
    "Completion",
    "Setting",
    "SteeringVectors",
    "Yardstick",
    "complete",
    "divergences",
    "export_gguf",
    "export_lm_eval",
    "header",
    "load_vectors",
    "log_odds",
    "measure",
    "position_note",
    "save_vectors",
    "unsteered_completions",
    "yardstick",
]
