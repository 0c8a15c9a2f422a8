"""Run directories of every command with a report, from small recorded runs, hostile texts planted in them.

recorded_runs.json.gz holds what `mi-ortho geometry`, `refusal`, `presence`, `nulls`, `dct` and one experiment recorded
on embedded models at small settings, numbers cut to three digits. They are material for pages, not results.
"""

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fake_run import HOSTILE, base_rows, orthogonal, write_json, write_run
from safetensors.torch import save_file

from mi_ortho import Verdict, start

WORDS = ("How", " can", *HOSTILE)
RECORDED = Path(__file__).parent / "recorded_runs.json.gz"
PLANTED = (
    "text",
    "prompt",
    "title",
    "tokens",
    "labels",
    "headline",
    "position_tokens",
    "prompt_tokens",
    "harmful",
    "raised",
    "lowered",
)


@cache
def recorded() -> Mapping[str, Mapping[str, Any]]:
    """Files of each recorded run by their names."""
    return json.loads(gzip.decompress(RECORDED.read_bytes()))


def write_recorded(name: str, path: Path) -> Path:
    """Write one recorded run with hostile texts into a directory and return it."""
    path.mkdir(parents=True)
    places: dict[str, dict[str, str]] = {}
    for file, content in recorded()[name].items():
        if file.endswith(".safetensors"):
            (path / file).write_bytes(base64.b64decode(content))
        elif file.endswith(".jsonl"):
            rows = planted(content, "", places)
            (path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            write_json(path / file, planted(content, "", places))
    return path


def planted(value: Any, key: str, places: dict[str, dict[str, str]]) -> Any:
    """The value with the first texts under each of the planted keys replaced, the same text always by the same."""
    if isinstance(value, dict):
        return {name: planted(item, name, places) for name, item in value.items()}
    if isinstance(value, list):
        return [planted(item, key, places) for item in value]
    if not isinstance(value, str) or key not in PLANTED:
        return value
    known = places.setdefault(key, {})
    if value not in known:
        known[value] = HOSTILE[len(known)] if len(known) < len(HOSTILE) else value
    return known[value]


def write_melbo(path: Path) -> Path:
    """A run of `mi-ortho melbo`, hostile completions included."""
    import random

    rows = [row for row in base_rows(random.Random(0), HOSTILE[1]) if row["kind"] != "base"]
    for row, text in zip(rows, HOSTILE):
        row["text"] = text
    path.mkdir(parents=True)
    write_json(path / "config.json", {"prompts": [HOSTILE[0]], "radius": 24.0})
    write_json(path / "environment.json", {"command": "melbo", "argv": ["mi-ortho", "melbo"], "model": HOSTILE[1]})
    write_json(path / "summary.json", {"headline": HOSTILE[2]})
    (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_file({"melbo": orthogonal(8, 9)}, path / "vectors.safetensors")
    return path


def write_folder(path: Path) -> Path:
    """A folder of finished runs whose headlines are hostile."""
    for k, text in enumerate(HOSTILE):
        with start(path, f"command{k % 3}", {"seed": k}, facts={"model": HOSTILE[1]}) as run:
            verdict = Verdict(text, text, text, 0.5, (0.4, 0.6), 0.2, 0.1, k % 2 == 0)
            run.summary({"headline": text, "verdicts": [verdict], "seconds": 10.0 - k})
    return path


def write_pair(path: Path) -> Path:
    """A folder of two family runs with other seeds, settings and hostile completions."""
    for seed in (0, 5):
        place = path / "family" / f"2026010{seed + 1}T030405-0000000{seed}"
        one = write_run(place, seed=seed, sizes={"kl": 12, "activation": 6})
        changed = json.loads((one / "config.json").read_text()) | {"seed": seed, "note": HOSTILE[seed % 3]}
        write_json(one / "config.json", changed)
    return path


def write_explored(path: Path, *, heads: int = 4, size: int = 12, wide: int = 0) -> Path:
    """A fake family run and what exploring it would have recorded, hostile tokens included."""
    family = write_run(path, sizes={"kl": 12, "activation": 6})
    run = start(family, "explore", {}, at=family / "explore")
    named = [("base", 0), *(("kl", i) for i in range(12)), *(("activation", i) for i in range(6))]
    generator = torch.Generator().manual_seed(0)
    words = [*WORDS, *(f" w{k}" for k in range(size - len(WORDS)))]
    with run:
        natural = 0.4 * torch.randn(len(words), len(named), generator=generator)
        plain = torch.randn(heads, size, size, generator=generator).tril()
        run.save_tensors("frame", {"attention": plain.softmax(-1), "natural": natural})
        run.record(
            {
                "kind": "frame",
                "prompt": "p",
                "layer": 5,
                "layers": 3,
                "pieces": words[:size],
                "left_out": wide,
                "natural": words,
                "natural_start": 2,
                "vectors": [list(name) for name in named],
                "d_model": 192,
                "null_cosine": 0.25,
            }
        )
        for k, (match, index) in enumerate(named):
            change = 0.1 * torch.randn(heads, size, size, generator=generator).tril()
            change[0] *= 0.01
            run.save_tensors(f"drawn/{match}/{index:06d}", {"vector": change.half()})
            run.record(
                {
                    "kind": "vector",
                    "match": match,
                    "index": index,
                    "pieces": words,
                    "start": 3,
                    "presence": [round(0.05 * k - 0.3 + 0.01 * j, 4) for j in range(len(words))],
                    "attention_change": [[0.0] * heads, [0.2] * heads, [k / 20] * heads],
                    "nearest": [[HOSTILE[0], 0.5], [HOSTILE[1], 0.3]],
                    "farthest": [[HOSTILE[3], -0.5]],
                }
            )
        run.consolidate("drawn")
        run.summary({"headline": "h"})
    return run.path


def write_atlas(path: Path) -> Path:
    """A run of `mi-ortho atlas` with hostile answers and prompts."""
    rows: list[dict[str, Any]] = [
        {"kind": "unsteered", "prompt_text": HOSTILE[0], "text": HOSTILE[1], "mode": "refuse", "behaviours": ["code"]}
    ]
    for source, target in ((2, 4), (2, 6), (10, 18)):
        values = [8.0 / (k + 1) for k in range(5)]
        rows.append({"kind": "spectrum", "source": source, "target": target, "values": values, "typical": 1.2})
        for norm in (0.1, 0.2):
            place = {"source": source, "norm": norm, "radius": 100 * norm}
            for what, more in (("melbo", {"target": target}), ("random", {})):
                rows += [
                    {"kind": "answer", "what": what, **place, **more, "index": k, "text": text}
                    | {"mode": ("code", "refuse", "incoherent")[k % 3], "readability": -k / 2, "changed": k % 2 == 0}
                    for k, text in enumerate(HOSTILE)
                ]
                measured = {"displacement": 2.0 + norm, "linear": 0.4, "growth": 1.1}
                rows.append({"kind": "response", "what": what, **place, "target": target, **measured})
    path.mkdir(parents=True)
    write_json(path / "config.json", {"prompts": [HOSTILE[0]], "behaviour": "auto"})
    write_json(path / "environment.json", {"command": "atlas", "argv": ["mi-ortho", "atlas"], "model": HOSTILE[1]})
    write_json(path / "summary.json", {"headline": HOSTILE[2], "tiles": [["3", "pairs"]]})
    (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
