"""Text read from disk and mixed into training: which files, under which licence, with which hashes."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from transformers import PreTrainedTokenizerBase

MANIFEST = "texts.json"


@dataclass(frozen=True)
class TextFile:
    """One file that was read: its path, the licence its source was listed with, and the SHA-256 of its bytes."""

    path: str
    licence: str
    sha256: str
    text: str


def read_texts(sources: Sequence[str]) -> list[TextFile]:
    """The files of `sources`, each "LICENCE=PATTERN" as in "PSF-2.0=/usr/lib/python3.12/*.py", sorted by path.

    `**` in a pattern matches any folders. Files that are not UTF-8 are left out. Raises ValueError for a source of
    another form and for a pattern without files.
    """
    every: list[TextFile] = []
    for source in sources:
        licence, _, pattern = source.partition("=")
        if not licence or not pattern:
            raise ValueError(f"got text source {source!r}; expected LICENCE=PATTERN; name the licence before the files")
        files = [one for one in (_text_file(path, licence) for path in sorted(glob(pattern, recursive=True))) if one]
        if not files:
            raise ValueError(f"got pattern {pattern!r}, which matches no UTF-8 file; expected some; correct it")
        every += files
    return every


def _text_file(path: str, licence: str) -> TextFile | None:
    if not Path(path).is_file():
        return None
    content = Path(path).read_bytes()
    try:
        return TextFile(path, licence, hashlib.sha256(content).hexdigest(), content.decode())
    except UnicodeDecodeError:
        return None


def manifest(files: Sequence[TextFile]) -> list[dict[str, str | int]]:
    """What the model folder records of each file: path, licence, characters, SHA-256."""
    return [{"path": f.path, "licence": f.licence, "characters": len(f.text), "sha256": f.sha256} for f in files]


class Windows:
    """`windows(draw)`: token ids of a random place in a file, a file's chance being proportional to its length."""

    def __init__(self, files: Sequence[TextFile], tokenizer: PreTrainedTokenizerBase, width: int) -> None:
        self.tokens = [ids for file in files if len(ids := tokenizer(file.text).input_ids) >= 2]
        if not self.tokens:
            raise ValueError(f"got {len(files)} texts of less than two tokens; expected longer ones; add files")
        self.lengths, self.width = [len(ids) for ids in self.tokens], width

    def __call__(self, draw: random.Random) -> list[int]:
        """At most `width` token ids."""
        ids = draw.choices(self.tokens, self.lengths)[0]
        start = draw.randrange(max(1, len(ids) - self.width + 1))
        return ids[start : start + self.width]
