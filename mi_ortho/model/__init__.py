"""The model behind typed hook points: the only package that imports transformer_lens."""

from mi_ortho.model.generate import generate, generate_ids
from mi_ortho.model.heads import head_writes
from mi_ortho.model.hooks import Where, answer_logits, intervene, next_token_logits, read, traced_answer_logits
from mi_ortho.model.load import EMBEDDED, Model, folder_of, freeze, load, load_shuffled, load_untrained
from mi_ortho.model.prompts import Prompts, tokenize
from mi_ortho.model.sinks import Sinks, sinks
from mi_ortho.model.slice import Readout, Slice, logit_slice, slice_model
from mi_ortho.model.spelling import Pieces, pieces
from mi_ortho.model.stepping import require_agreement
from mi_ortho.model.weights import export_model, orthogonalised

__all__ = [
    "EMBEDDED",
    "Model",
    "Pieces",
    "Prompts",
    "Readout",
    "Sinks",
    "Slice",
    "Where",
    "answer_logits",
    "export_model",
    "folder_of",
    "freeze",
    "generate",
    "generate_ids",
    "head_writes",
    "intervene",
    "load",
    "load_shuffled",
    "load_untrained",
    "logit_slice",
    "next_token_logits",
    "orthogonalised",
    "pieces",
    "read",
    "sinks",
    "require_agreement",
    "slice_model",
    "tokenize",
    "traced_answer_logits",
]
