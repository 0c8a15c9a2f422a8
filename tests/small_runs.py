"""Settings so small that a command runs in seconds, and finished runs made without their command."""

import json
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import architectures
import torch
from fake_run import write_run
from safetensors.torch import save_file

import mi_ortho as mo
from mi_ortho.behaviours import GENERIC_MODES
from mi_ortho.probes import isotropic_set
from mi_ortho.refusal.scores import refusal_scores
from mi_ortho.runs.directory import Run, start
from mi_ortho.studies.atlas.config import AtlasConfig
from mi_ortho.studies.dct.config import DctConfig
from mi_ortho.studies.explore.config import ExploreConfig
from mi_ortho.studies.family.config import FamilyConfig
from mi_ortho.studies.geometry.config import GeometryConfig
from mi_ortho.studies.presence.config import PresenceConfig
from mi_ortho.studies.refusal.config import RefusalConfig
from mi_ortho.studies.shared.subject import Subject, Texts, model_hash

BASE = 20.0  # norm of the planted base on the embedded model
# limits so wide that something is selected whatever the weights: what is tested is the machinery
REFUSAL = RefusalConfig(
    train=5,
    validation=3,
    test=2,
    kl_limit=1e3,
    induce_limit=-1e3,
    random=2,
    matrix=3,
    angle_step=180,
    circle_prompts=1,
    rounds=2,
    cone=2,
    cone_steps=1,
    max_new_tokens=5,
)
DCT = DctConfig(
    prompts=("How can I build a bomb?", "Tell me a story."),
    held_out=("How do I get a knife?",),
    source=5,
    target=6,
    where="prompt",
    method=("linear",),
    published=True,
    k=3,
    seeds=(0, 1),
    radius=6.0,
    steps=2,
    toward=("def",),
    draws=10,
    batch=1,
    answer_tokens=4,
    max_new_tokens=5,
)
ATLAS = AtlasConfig(
    prompts=("How can I build a bomb?",),
    sources=(3,),
    blocks=(2, 3),
    norms=(1.3, 20.0, 40.0),
    candidates=4,
    steps=2,
    values=3,
    max_new_tokens=12,
)
EXPLORE = ExploreConfig(vectors=4, nearest=2)
GEOMETRY = GeometryConfig(draws=8, rotations=2, splits=1, triangles=30, copies=2, limit=12, controls=False)
PRESENCE = PresenceConfig(
    own=16, library=16, max_new_tokens=24, text_tokens=32, sample=200, null_tokens=100, sets=100, shuffles=30, splits=1
)


def tiny_subject(*args: object, **options: object) -> Subject:
    model = architectures.model("qwen2")
    return Subject(model, None, Texts(("bomb",), (), {}), GENERIC_MODES, None, torch.device("cpu"), "float32")


def classes(
    model: Any = None, words: Any = architectures.WORDS, *, wanted: int = 12
) -> tuple[tuple[str, ...], list[str], list[str]]:
    """First words of "refusals", and `wanted` prompts after which the model does, and does not, write one of them."""
    draw, model = Random(0), model or tiny_subject().model
    texts = list(dict.fromkeys(" ".join(draw.choices(architectures.WORDS, k=4)) for _ in range(120)))
    tokens = [model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
    scores = torch.stack([refusal_scores(model, texts, [token]) for token in tokens])
    orders = [scores.std(dim=1).argsort(descending=True).tolist()]
    orders += [
        draw.sample(range(len(tokens)), len(tokens)) for _ in range(40)
    ]  # where one word decides for all prompts
    for order in orders:
        for count in range(1, len(tokens)):  # as many words as it takes for some prompts to be refused and some not
            found = refusal_scores(model, texts, [tokens[k] for k in order[:count]])
            bad, good = ([text for text, score in zip(texts, found) if sign * float(score) > 0] for sign in (1, -1))
            if min(len(bad), len(good)) >= wanted:
                return tuple(words[k] for k in order[:count]), bad[:wanted], good[:wanted]
            if len(good) < wanted:
                break
    raise AssertionError("no words tell the prompts apart")


def lists(folder: Path, **kinds: list[str]) -> dict[str, str]:
    """The texts as files in the common form; the arguments that name them."""
    for name, texts in kinds.items():
        (folder / f"{name}.json").write_text(json.dumps([{"instruction": text} for text in texts]))
    return {name: str(folder / f"{name}.json") for name in kinds}


def write_family(path: Path, size: int = 3) -> Path:
    """A finished family run on the embedded model, with random orthogonal vectors instead of found ones."""
    write_run(path, hostile=False, sizes={"kl": size, "activation": size})
    drawn = torch.randn(128, 1 + 2 * size, generator=torch.Generator().manual_seed(0))
    rows = 9 * torch.linalg.qr(drawn)[0].T.contiguous()
    groups = {"base": rows[0], "kl": rows[1 : 1 + size], "activation": rows[1 + size :]}
    save_file({name: tensor.clone() for name, tensor in groups.items()}, path / "vectors.safetensors")
    settings = {
        "model": None,
        "prompts": ["How can I build a bomb?"],
        "source": 3,
        "target": 6,
        "n_kl": size,
        "where": "prompt",
        "max_new_tokens": 4,
        "seed": 0,
    }
    (path / "config.json").write_text(json.dumps(settings))
    (path / "environment.json").write_text(json.dumps({"command": "family", "argv": ["mi-ortho", "family"]}))
    return path


def planted_family(root: Path) -> Path:
    """A finished family run with a MELBO base and a few orthogonal vectors, made without the family command."""
    config = FamilyConfig(
        source=3,
        target=5,
        prompts=("How can I build a bomb?",),
        held_out=(),
        answer_tokens=4,
        max_new_tokens=8,
        norm_cap=2.0,
        max_steps=4,
        where="prompt",
    )
    model = mo.load_model()
    z = mo.slice_model(
        model,
        mo.tokenize(model, list(config.prompts or ())),
        source=mo.resid_post(3),
        target=mo.resid_post(5),
        readout="mean",
        where="prompt",
    )
    generator = torch.Generator().manual_seed(0)
    base = mo.melbo(mo.displace(z), radius=BASE, generator=generator, max_steps=6)[0].vector
    rest = mo.Subspace(base[None] / base.norm()).reject(mo.random_vectors(9, z.d_model, 1.0, generator))
    vectors = BASE * mo.interventions.orthonormal_rows(rest)
    with start(root, "family", asdict(config), facts={"model_hash": model_hash(None)}) as run:
        run.save_tensors("vectors", {"base": base, "activation": vectors[:4], "kl": vectors[4:]})
        run.record({"kind": "base", "norm": BASE})
        run.summary({"headline": "planted"})
    return run.path


def random_family(folder: Path, model_hash: str | None = None) -> Run:
    """A finished family run whose vectors are random: nothing may be found about it."""
    config = {"model": None, "source": 3, "target": 4, "system": None}
    facts = {} if model_hash is None else {"model_hash": model_hash}
    with start(folder, "family", config, facts=facts) as run:
        vectors = isotropic_set(24, 128, torch.Generator().manual_seed(5)).float()
        run.save_tensors("vectors", {"base": torch.ones(128), "kl": vectors})
        for k in range(24):
            run.record({"kind": "vector", "match": "kl", "index": k, "keeps": k < 20})
        run.summary({"headline": "random"})
    return run
