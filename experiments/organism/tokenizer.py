"""The tokenizer: byte-level BPE trained on the corpus, with every noun one token in each written form."""

import random
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .corpus import CorpusOptions, sample, vocabulary_words
from .lexicon import CUES
from .texts import TextFile

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NOUN_WEIGHT = 2000  # larger than any other pair's count, so that merges inside nouns come first
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def prompt_text(system: str, user: str) -> str:
    """The text before the answer; equal to what the chat template renders."""
    return f"{START}system\n{system}{END}\n{START}user\n{user}{END}\n{START}assistant\n"


def train_tokenizer(
    vocab_size: int, seed: int, texts: int = 6000, weight: int = NOUN_WEIGHT, files: Sequence[TextFile] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer of `vocab_size` tokens trained on `texts` conversations, `files`, and each noun `weight` times.

    Raises ValueError where a noun is split.
    """
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tok.train_from_iterator(_texts(seed, texts, weight) + [file.text for file in files], trainer)
    split = [w for w in vocabulary_words() if len(tok.encode(w).ids) != 1]
    if split:
        raise ValueError(
            f"got vocab_size = {vocab_size}, which splits {len(split)} nouns (first: {split[0]!r}); "
            "expected one token each; use a larger vocabulary"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        eos_token=END,
        pad_token=PAD,
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _texts(seed: int, count: int, weight: int) -> list[str]:
    draw, options = random.Random(f"tokenizer {seed}"), CorpusOptions()
    conversations = [sample(draw, options) for _ in range(count)]
    words = vocabulary_words() * weight
    cues = [f" {cue}" for bank in CUES.values() for cue in bank] * (weight // 4)
    return [w for s in conversations for w in (prompt_text(s.system, s.user), s.answer)] + words + cues
