"""Export: the trained network as a plain Hugging Face Qwen2 folder in bf16."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from .network import fold_writes
from .recipe import Recipe


def export(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, folder: Path) -> None:
    """Write config, weights (bf16, write scales folded in), tokenizer, chat template and recipe to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    folded = {name: w.to(torch.bfloat16).contiguous() for name, w in fold_writes(weights, recipe).items()}
    save_file(folded, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | {"dtype": "bfloat16", "architectures": ["Qwen2ForCausalLM"]}
    _write_json(folder / "config.json", {k: v for k, v in config.items() if v is not None or k == "bos_token_id"})
    _write_json(folder / "generation_config.json", {"do_sample": False, "eos_token_id": 2, "pad_token_id": 0})
    tokenizer.save_pretrained(folder)
    _write_json(folder / "recipe.json", asdict(recipe))


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
