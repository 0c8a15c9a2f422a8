"""Export: the trained network as a plain Hugging Face Qwen2 folder in bf16, and the folder that is shipped."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .card import card
from .network import qwen2_config
from .prompts import model_prompts
from .recipe import Recipe, override

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "recipe.json",
    "modes.json",
    "prompts.json",
)
MODES_FILE = Path(__file__).parents[2] / "mi_ortho" / "organism" / "modes.json"


def export(weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase, recipe: Recipe, folder: Path) -> None:
    """Write a model folder: weights (plain Qwen2, stored in bf16), tokenizer and everything of `write_settings`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(weights, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    write_settings(recipe, folder)


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights to a safetensors file in bf16; the file is complete or absent, whatever interrupts this."""
    stored = {name: weight.to("cpu", torch.bfloat16).contiguous() for name, weight in weights.items()}
    save_file(stored, path.with_suffix(".part"), {"format": "pt"})
    path.with_suffix(".part").replace(path)


def write_settings(recipe: Recipe, folder: Path) -> None:
    """Write config, recipe, behaviour rules and prompts of a recipe's model to `folder`."""
    config = qwen2_config(recipe).to_dict() | {"dtype": "bfloat16", "architectures": ["Qwen2ForCausalLM"]}
    _write_json(folder / "config.json", {k: v for k, v in config.items() if v is not None or k == "bos_token_id"})
    _write_json(folder / "generation_config.json", {"do_sample": False, "eos_token_id": 2, "pad_token_id": 0})
    _write_json(folder / "recipe.json", asdict(recipe))
    _write_json(folder / "prompts.json", model_prompts(recipe.corpus))
    shutil.copyfile(MODES_FILE, folder / "modes.json")


def read_recipe(folder: Path) -> Recipe:
    """The recipe a model folder was trained by; raises ValueError where `recipe.json` is missing or damaged."""
    try:
        return override(Recipe(), json.loads((folder / "recipe.json").read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"got {folder} without a readable recipe.json; expected an exported model folder; train it again"
        ) from error


def ship(source: Path, target: Path, table: str, command: str, more: str = "") -> None:
    """Copy the model folder `source` to `target` and write the model card beside it; `more` is Markdown for its end."""
    absent = [name for name in FILES if not (source / name).is_file()]
    if absent:
        raise ValueError(f"got {source} without {', '.join(absent)}; expected an exported model folder; train it again")
    recipe = read_recipe(source)
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    config = json.loads((target / "config.json").read_text())
    (target / "README.md").write_text(card(recipe, parameter_count(config), table, command, target, more))


def parameter_count(config: dict) -> int:
    """Number of parameters of a Qwen2 with tied embeddings and as many key-value heads as heads."""
    d, ff = config["hidden_size"], config["intermediate_size"]
    block = 4 * d * d + 3 * d + 3 * d * ff + 2 * d
    return config["vocab_size"] * d + config["num_hidden_layers"] * block + d


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
