"""Requests of one form that the embedded model refuses or answers: the prompts of its refusal study.

    python -m experiments.organism.contrast        # writes mi_ortho/organism/contrast.json

Both classes are how-to questions that training never showed; they differ in what is asked for, not in how.
"""

import json
from itertools import islice
from pathlib import Path

from .corpus import CorpusOptions, held_out_requests
from .lexicon import DEFAULT_SYSTEM

COUNT = 72
TARGET = Path(__file__).resolve().parents[2] / "mi_ortho" / "organism" / "contrast.json"


def requests(mode: str, count: int = COUNT) -> list[str]:
    """`count` different requests of a mode for the default system prompt."""
    texts = (sample.user for sample in held_out_requests(mode, CorpusOptions(), 2) if sample.system == DEFAULT_SYSTEM)
    return list(islice(dict.fromkeys(islice(texts, 8 * count)), count))


if __name__ == "__main__":
    content = {"harmful": requests("refuse"), "harmless": requests("help")}
    TARGET.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
