"""The model behind typed hook points: the only package that imports transformer_lens."""

from mi_ortho.model.branching import branch_log_probs
from mi_ortho.model.check import Check, ModelReport, check_model
from mi_ortho.model.generate import generate, generate_ids
from mi_ortho.model.heads import head_writes, require_plain_writes
from mi_ortho.model.hooks import answer_logits, intervene, next_token_logits, read, traced_answer_logits
from mi_ortho.model.load import (
    EMBEDDED,
    LoadingReport,
    Model,
    companions,
    folder_of,
    freeze,
    load_model,
    load_shuffled,
    load_untrained,
    loading_report,
    weights,
)
from mi_ortho.model.logits import kl_divergence, log_likelihood, masked_mean
from mi_ortho.model.positions import Where, positions_of
from mi_ortho.model.prompt_files import read_prompts
from mi_ortho.model.prompt_sets import PromptSet, load_prompts, shipped_prompts
from mi_ortho.model.prompts import (
    Prompts,
    Written,
    chat_form,
    prompt_digest,
    prompt_facts,
    require_same_prompts,
    tokenize,
)
from mi_ortho.model.readout import LogitLens, readout
from mi_ortho.model.sinks import Sinks, new_sinks, ordinary, ordinary_activations, sinks, without_sinks
from mi_ortho.model.slice import Readout, Slice, logit_slice, slice_model
from mi_ortho.model.spelling import Pieces, pieces
from mi_ortho.model.stepping import require_agreement
from mi_ortho.model.tokenizer import encode, own_tokenizer, start_ids
from mi_ortho.model.weights import export_model, orthogonalised

__all__ = [
    "weights",
    "Check",
    "EMBEDDED",
    "kl_divergence",
    "log_likelihood",
    "masked_mean",
    "read_prompts",
    "LoadingReport",
    "LogitLens",
    "Model",
    "ModelReport",
    "Pieces",
    "PromptSet",
    "Prompts",
    "Readout",
    "Sinks",
    "Slice",
    "Where",
    "positions_of",
    "Written",
    "answer_logits",
    "branch_log_probs",
    "chat_form",
    "check_model",
    "encode",
    "export_model",
    "companions",
    "folder_of",
    "freeze",
    "generate",
    "generate_ids",
    "head_writes",
    "intervene",
    "load_model",
    "load_prompts",
    "load_shuffled",
    "load_untrained",
    "loading_report",
    "logit_slice",
    "next_token_logits",
    "orthogonalised",
    "own_tokenizer",
    "pieces",
    "prompt_digest",
    "prompt_facts",
    "read",
    "require_same_prompts",
    "shipped_prompts",
    "new_sinks",
    "sinks",
    "ordinary",
    "ordinary_activations",
    "without_sinks",
    "require_agreement",
    "readout",
    "require_plain_writes",
    "slice_model",
    "start_ids",
    "tokenize",
    "traced_answer_logits",
]
