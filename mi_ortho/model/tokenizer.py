"""The tokenizer a model was trained with: the one of its own folder, unchanged."""

import shutil
from pathlib import Path
from typing import Any

# what tokenizers differ on: code, indentation, digits, white space at either end, letters of several scripts, symbols
_PROBE = (
    "class Kite:\n    def __init__(self, size=1234):\n\t\tself.size = size  # 3.14*x**2\n\n\n        return [a_b]\n",
    " Don't they'LL say:  «Größe, Ångström», naïve café... 東京タワー، سلام! 🪁🪁 x²≠½\r\n\r\n  ",
    '```python\nif x >= 10 and not {"k": [0x1F, 1e-9]}:\n  print(f"{x!r:>8}")\n```',
)


def own_tokenizer(source: str, config: Any, *, trust_remote_code: bool = False, **options: Any) -> tuple[str, Any]:
    """The tokenizer of a folder or hub name, and in words which one it is.

    transformers picks a class of its own by the architecture. Where that reads a probe otherwise than the folder's
    tokenizer.json does, texts would not become the tokens the model was trained on, and tokenizer.json is taken.

    Args:
        source: a folder or hub name.
        config: the model's configuration.
        trust_remote_code: run tokenizer code the folder brings along.
        options: `gguf_file` of a folder.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    picked = AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=trust_remote_code, **options)
    file = None if options else _file_of(source, "tokenizer.json")
    if file is None and not all(encode(picked, text) for text in _PROBE):  # an empty vocabulary, made without a file
        raise ValueError("no tokenizer file")
    if file is None or _reads_alike(picked, file):
        return f"its own, {type(picked).__name__}", paddable(picked)
    kind = type(picked).__name__
    description = f"its own tokenizer.json, which {kind}, the class transformers picks, does not read alike"
    return description, paddable(PreTrainedTokenizerFast.from_pretrained(source))


def save_tokenizer(tokenizer: Any, folder: Path, source: str | None) -> None:
    """Write a tokenizer to a model folder: the very files of `source` (a folder or hub name) where there is one."""
    written = {Path(file).name for file in tokenizer.save_pretrained(folder) if file}
    if source is None:
        return
    for name in written | set(tokenizer.vocab_files_names.values()):
        file = _file_of(source, name)
        if file is not None:
            shutil.copyfile(file, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def start_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text: its start token, or nothing."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    starts = range(len(whole) - len(bare) + 1)
    return list(whole[: next((k for k in starts if whole[k : k + len(bare)] == bare), 0)])


def encode(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, without any that the tokenizer would add."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def paddable(tokenizer: Any) -> Any:
    """The same tokenizer; without a padding token it pads with its end token, which no attention ever sees."""
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stand_in() -> Any:
    """A tokenizer for TransformerLens to adapt while it makes its hooks, in place of one that must stay as it is."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    special = {f"{name}_token": "?" for name in ("unk", "bos", "eos", "pad")}
    reader = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    reader.init_kwargs |= {"name_or_path": "", "add_bos_token": True}  # or it would be looked up by name once more
    return reader


def _reads_alike(tokenizer: Any, file: Path) -> bool:
    from tokenizers import Tokenizer

    core = Tokenizer.from_file(str(file))
    core.no_truncation()
    core.no_padding()
    return all(core.encode(text, add_special_tokens=False).ids == encode(tokenizer, text) for text in _PROBE)


def _file_of(source: str, name: str) -> Path | None:
    """A file of a folder or hub name, None where it has none."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        source,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Path(path)
