"""Loading: a name or a folder becomes a frozen model with typed hook points."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

EMBEDDED = Path(__file__).resolve().parent.parent / "organism"
SIBLINGS = {"embedded": EMBEDDED, "embedded/naive": EMBEDDED / "naive"}


@runtime_checkable
class Model(Protocol):
    """What `TransformerBridge` and the `HookedTransformer` of TransformerLens 3 share; either is accepted.

    Only members that are cheap to look up: they are checked at every call of a public function.
    """

    @property
    def cfg(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...

    def hooks(self, *args: Any, **kwargs: Any) -> Any: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def load(
    name: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> Model:
    """A frozen model in evaluation mode: the embedded one (None), a folder, or a name on the Hugging Face hub.

    Weights are read as safetensors only. Raises ValueError, in one line, for an unknown name or folder, missing or
    pickled weights, an architecture TransformerLens does not know, and weights that are not finite numbers.
    """
    source = _source(name)
    with quiet():
        network = _pretrained(source, dtype, trust_remote_code).to(device)
        _require_finite_weights(source, network)
        return freeze(_bridge(source, network, trust_remote_code))


def load_untrained(
    name: str | Path | None = None,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> Model:
    """The same architecture as `load(name)` with the random weights it would start training from: a control."""
    from transformers import AutoConfig, AutoModelForCausalLM

    source = _source(name)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)  # transformers draws its initial weights from the global generator
        settings = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        network = AutoModelForCausalLM.from_config(
            settings, dtype=dtype, trust_remote_code=trust_remote_code, attn_implementation="eager"
        )
        return freeze(_bridge(source, network.to(device), trust_remote_code))


def load_shuffled(
    name: str | Path | None = None,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> Model:
    """`load(name)` with the entries of every weight matrix permuted: a control that keeps the sizes of all weights."""
    model = load(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights(model):
            if weight.ndim > 1:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return model


def freeze(model: Model) -> Model:
    """The same model in evaluation mode with no weight asking for a gradient."""
    module: Any = model
    module.eval()
    for weight in weights(model):
        weight.requires_grad_(False)
    return model


def weights(model: Model) -> Iterator[torch.nn.Parameter]:
    """The parameters of the network itself."""
    return getattr(model, "original_model", model).parameters()  # pyright: ignore[reportAttributeAccessIssue]


def folder_of(name: str | Path | None) -> Path:
    """Where a model's files would lie: the folder of an embedded one, else the name as a path.

    >>> folder_of("embedded") == folder_of(None)
    True
    """
    return EMBEDDED if name is None else SIBLINGS.get(str(name), Path(name).expanduser())


def _source(name: str | Path | None) -> str:
    """A folder checked for weights, or a hub name. Raises ValueError for a folder that cannot be loaded."""
    folder = folder_of(name)
    looks_local = name is None or name in SIBLINGS or isinstance(name, Path) or name.startswith((".", "/", "~"))
    if not folder.is_dir():
        if looks_local:
            raise ValueError(
                f"got model folder {str(folder)!r}, which does not exist; expected a folder with "
                "config.json and *.safetensors; correct the path"
            )
        return str(name)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"got model folder {str(folder)!r} without config.json; expected a Hugging Face model folder; "
            "save the model there with save_pretrained"
        )
    _require_safetensors(folder)
    return str(folder)


def _require_safetensors(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if not missing:
        return
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt*")):
        raise ValueError(
            f"got model folder {str(folder)!r} with pickled weights only; expected safetensors; "
            "save the model again with save_pretrained(safe_serialization=True)"
        )
    raise ValueError(
        f"got model folder {str(folder)!r} without {', '.join(missing)}; expected all weight files; "
        "copy the folder again"
    )


def _pretrained(source: str, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, attn_implementation="eager"
        )
    except Exception as error:  # of a dozen kinds, from json, safetensors, the hub and transformers
        raise ValueError(_advice(source, error)) from error


def _advice(source: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        return (
            f"got model {source!r}, which runs code of its own; expected a model without remote code; "
            "pass trust_remote_code only if you trust its authors"
        )
    if Path(source).is_dir():
        return (
            f"got model folder {source!r}, which cannot be read ({text[:200]}); expected a Hugging Face causal "
            "language model; check the folder"
        )
    if "safetensors" in text:
        return f"got model {source!r} without safetensors weights; expected safetensors; choose a model that has them"
    if "valid model identifier" in text or "Repo id" in text:
        return (
            f"got model {source!r}, which is neither a folder nor a name on the hub; expected one of these; "
            "check the spelling, or log in if the model is gated"
        )
    if "connect" in text or "offline" in text:
        return (
            f"got model {source!r}, which is no folder here, and no hub was reachable; expected a folder or a "
            "network; pass the folder of a downloaded model, or connect and try again"
        )
    return (
        f"got model {source!r}, which cannot be loaded ({text[:200]}); expected a causal language model with "
        "safetensors weights; choose another model or pass the folder of one"
    )


def _bridge(source: str, network: Any, trust_remote_code: bool) -> Model:
    from transformer_lens.model_bridge import TransformerBridge

    try:
        return TransformerBridge.boot_transformers(
            source,
            hf_model=network,
            device=str(network.device),
            dtype=network.dtype,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"got model {source!r} of type {type(network).__name__}, which TransformerLens cannot load "
            f"({text[:200]}); expected a supported architecture with its tokenizer; "
            "choose another model"
        ) from error


def _require_finite_weights(source: str, network: Any) -> None:
    for name, weight in network.named_parameters():
        # the sum is one cheap pass; only when it overflowed or is NaN are the entries looked at
        if not bool(weight.float().sum().isfinite()) and not bool(weight.isfinite().all()):
            raise ValueError(
                f"got model {source!r} with NaN or infinite values in weight {name}; expected finite "
                "weights; download or train the model again"
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice of the libraries below; restored afterwards."""
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    below = logging.root.manager.disable
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            yield
    finally:
        logging.disable(below)
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
