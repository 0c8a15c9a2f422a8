"""Checkpoints of a training run: weights and AdamW moments in one safetensors file, replaced atomically."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import Qwen2ForCausalLM

from .corpus import fingerprint
from .recipe import Recipe

FILE = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(
    folder: Path, model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int
) -> None:
    """Write `folder/checkpoint.safetensors`: temporary file, fsync, rename."""
    tensors = {f"weight/{name}": p.detach().cpu() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        tensors |= {f"{moment}/{name}": optimizer.state[p][moment].cpu() for moment in MOMENTS}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{FILE}.part"
    meta = {"step": str(step), "recipe": recipe.digest, "corpus": fingerprint(recipe.corpus)}
    save_file(tensors, temporary, meta)
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(folder / FILE)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint file; raises ValueError when it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"got a corrupt checkpoint {path} ({error}); expected a safetensors file; delete it to start anew"
        ) from error


def load_checkpoint(folder: Path, model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer, recipe: Recipe) -> int:
    """Restore weights and moments from `folder` and return the step to go on from; 0 where there is no checkpoint."""
    path = folder / FILE
    if not path.exists():
        return 0
    tensors, meta = read_checkpoint(path)
    if meta.get("recipe") != recipe.digest:
        raise ValueError(
            f"got a checkpoint of recipe {meta.get('recipe')} in {folder}; expected {recipe.digest}; "
            "use another folder or delete it"
        )
    if meta.get("corpus") != fingerprint(recipe.corpus):
        raise ValueError(
            f"got a checkpoint in {folder} trained on other conversations; expected those this version generates; "
            "delete it to start anew"
        )
    step = int(meta["step"])
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"weight/{name}"])
            state = {moment: tensors[f"{moment}/{name}"].to(p.device, copy=True) for moment in MOMENTS}
            optimizer.state[p] = {"step": torch.tensor(float(step)), **state}
    return step
