"""Text mixed into training: what is read, how it is listed, and what it changes in a batch."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from experiments.organism.recipe import PRESETS
from experiments.organism.texts import Windows, manifest, read_texts
from experiments.organism.tokenizer import train_tokenizer
from experiments.organism.train import Batches, train

TEXT = "The harbour master counted ships. " * 40


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(2304, 0, texts=500, weight=100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.txt").write_text(TEXT)
    (tmp_path / "two.txt").write_text("short")
    (tmp_path / "three.bin.txt").write_bytes(b"\xff\xfe\x00")
    return tmp_path


def test_files_are_listed_with_licence_and_hash(folder: Path) -> None:
    files = read_texts([f"CC0-1.0={folder}/*.txt"])
    listed = manifest(files)
    assert [Path(str(row["path"])).name for row in listed] == ["one.txt", "two.txt"]
    assert {row["licence"] for row in listed} == {"CC0-1.0"} and listed[1]["characters"] == 5
    assert listed[1]["sha256"] == "f9b0078b5df596d2ea19010c001bbd009e651de2c57e8fb7e355f31eb9d3f739"


@pytest.mark.parametrize("source", ["notes.txt", "=notes.txt", "MIT=", "MIT=/nowhere/*.txt"])
def test_a_wrong_source_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_texts([source])


def test_windows_are_pieces_of_the_files(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    windows, draw = Windows(read_texts([f"CC0-1.0={folder}/*.txt"]), tokenizer, 12), random.Random(0)
    for _ in range(20):
        ids = windows(draw)
        assert 2 <= len(ids) <= 12 and str(tokenizer.decode(ids)).strip() in TEXT + "short"
    with pytest.raises(ValueError, match="less than two tokens"):
        Windows([], tokenizer, 12)


def test_texts_take_their_share_of_a_batch_and_count_at_every_token(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    recipe = replace(PRESETS["tiny"], vocab_size=2304, texts=(f"CC0-1.0={folder}/one.txt",), text_share=0.5, window=16)
    batch = Batches(recipe, tokenizer, read_texts(recipe.texts))(0)
    assert len(batch.tokens) == recipe.batch and not batch.prompt[2:].any() and batch.prompt[:2].any(1).all()
    assert torch.equal(batch.weights[2:], (torch.arange(batch.tokens.shape[1]) < 16).float().expand(2, -1))
    assert str(tokenizer.decode(batch.tokens[2, :16])).strip() in TEXT
    training = train(recipe, tokenizer, folder / "out", report=lambda line: None, files=read_texts(recipe.texts))
    assert all(torch.isfinite(weight).all() for weight in training.plain_weights().values())


def test_a_share_without_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="text_share"):
        replace(PRESETS["tiny"], text_share=0.5)
