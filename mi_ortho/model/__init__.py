"""The model behind typed hook points: the only package that imports transformer_lens."""

from mi_ortho.model.generate import generate, generate_ids
from mi_ortho.model.hooks import Where, answer_logits, intervene, next_token_logits, read
from mi_ortho.model.load import EMBEDDED, Model, freeze, load
from mi_ortho.model.prompts import Prompts, tokenize
from mi_ortho.model.slice import Readout, Slice, logit_slice, slice_model

__all__ = [
    "EMBEDDED", "Model", "Prompts", "Readout", "Slice", "Where", "answer_logits", "freeze", "generate", "generate_ids",
    "intervene", "load", "logit_slice", "next_token_logits", "read", "slice_model", "tokenize",
]
