"""What each of four parts of the recipe contributes to the phenomena: all of them, each one left out, none of them.

The parts: leak, shared openings, random offsets, residual writes that grow with depth. Every variant is trained with
the preset `dial` at the corpus's usual frequencies, differs in nothing else, and is measured in the same way: 32
orthogonal MELBO vectors at a radius that is the mean residual norm at the source, and the orthogonal families of the
first code vector among them, beside random vectors of the same norms.

Predictions, written before the first run; `judged` compares them with the means over seeds.
1. None of the parts: at least one mode fewer than with all.
2. Without growth: the gain |dz|/R is at most half of that with all.
3. Without growth: the activation family's lead over random falls by at least 0.2.
4. Without leak, without openings, without offsets: each lowers the KL family's lead over random by at least 0.1.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

import mi_ortho as mo
from mi_ortho.steering import Setting, complete, measure, unsteered_completions, yardstick

from .export import export
from .prompts import DEFAULT, model_prompts
from .recipe import PRESETS, Recipe, override
from .tokenizer import train_tokenizer
from .train import train

BASE = PRESETS["dial"]
OFF: dict[str, dict[str, Any]] = {
    "leak": {"corpus": {"leak": 0.0}},
    "openings": {"corpus": {"openings": 0.0}},
    "offsets": {"offset": 0.0},
    "growth": {"write_scale": 1.0, "write_growth": 1.0},
}
SEEDS = (0, 1)
SOURCE, TARGET = 1, 3
RADIUS = 1.0  # times the mean residual norm at the source over the prompt's positions but the first
VECTORS = 32  # MELBO vectors, and random ones
FAMILY = 24  # orthogonal vectors of each family
NORM_CAP = 2.0
MODES_FEWER, GAIN_RATIO, ACTIVATION_LEAD, KL_LEAD = 1.0, 0.5, 0.2, 0.1


def variants() -> dict[str, Recipe]:
    """The recipe of each variant by name."""
    without = {f"without {part}": override(BASE, change) for part, change in OFF.items()}
    nothing = BASE
    for change in OFF.values():
        nothing = override(nothing, change)
    recipes = {"all four": BASE} | without | {"none of them": nothing}
    return {name: replace(recipe, name=name.replace(" ", "-")) for name, recipe in recipes.items()}


def compare_parts(
    folder: Path, seeds: Sequence[int] = SEEDS, report: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Train and measure every variant that `folder/shares.json` does not hold yet; seeds are the outer loop."""
    folder.mkdir(parents=True, exist_ok=True)
    path, tokenizer = folder / "shares.json", train_tokenizer(BASE.vocab_size, 0)
    rows = json.loads(path.read_text()) if path.exists() else []
    for seed in seeds:
        for name, recipe in variants().items():
            recipe = replace(recipe, seed=seed)
            if recipe.digest in {row["recipe"] for row in rows}:
                continue
            report(f"{name}, seed {seed}")
            work = folder / f"{recipe.name}-seed{seed}"
            training = train(recipe, tokenizer, work, report=report)
            export(training.plain_weights(), tokenizer, recipe, work / "model")
            rows.append({"variant": name, "seed": seed, "recipe": recipe.digest, **phenomena(work / "model")})
            path.with_suffix(".part").write_text(json.dumps(rows, indent=1) + "\n")
            path.with_suffix(".part").replace(path)
    return rows


def phenomena(model_folder: Path) -> dict[str, Any]:
    """Modes found, mode changes of random vectors, gain, and both families of a model folder."""
    subject = mo.open_subject(str(model_folder))
    site = mo.resid_post(SOURCE)
    setting = Setting(subject.model, site, "prompt", subject.modes)
    prompts = setting.prompts([DEFAULT])
    z = mo.slice_model(subject.model, prompts, source=site, target=mo.resid_post(TARGET), where="prompt", readout="all")
    radius = RADIUS * float(mo.read(subject.model, prompts, [site])[site][0, 1:].norm(dim=-1).mean())
    results = mo.melbo(mo.displace(z), radius=radius, n=VECTORS, generator=torch.Generator().manual_seed(0))
    vectors = torch.stack([each.vector for each in results])
    random = mo.random_vectors(VECTORS, z.d_model, radius, torch.Generator().manual_seed(1))
    plain = unsteered_completions(setting, [DEFAULT], z.d_model, torch.device("cpu"))[0].mode
    modes, noise = ([done[0].mode for done in complete(setting, [DEFAULT], v)] for v in (vectors, random))
    distinct = set(modes) - {subject.modes.default}
    row: dict[str, Any] = {
        "unsteered": plain,
        "radius": radius,
        "modes": len(distinct),
        "shown": {mode: modes.count(mode) for mode in sorted(set(modes))},
        "random_changes": sum(mode != plain for mode in noise) / VECTORS,
        "melbo_changes": sum(mode != plain for mode in modes) / VECTORS,
        "gain": gain(z, vectors, radius),
    }
    code = next((v for v, mode in zip(vectors, modes, strict=True) if mode == "code"), None)
    return row | ({} if code is None else families(setting, code))


@torch.no_grad()
def gain(z: mo.Slice, vectors: Tensor, radius: float) -> float:
    """Median over vectors of |z(theta) - z(0)| / |theta|, the mean over target positions."""
    moved = z(vectors) - z(torch.zeros_like(vectors[:1]))
    return float(moved.norm(dim=-1).flatten(1).mean(1).median()) / radius


def families(setting: Setting, base: Tensor) -> dict[str, float]:
    """Of both matches: the share of orthogonal vectors that keep code, random ones of their norms, transfer, norms."""
    pooled = mo.slice_model(
        setting.model,
        setting.prompts([DEFAULT]),
        source=setting.site,
        target=mo.resid_post(TARGET),
        where="prompt",
        readout="mean",
    )
    yard = yardstick(setting, [DEFAULT], base, mo.match(pooled, base), answer_tokens=24)
    held_out = model_prompts()["held_out"][:4]
    settings = mo.OrthoSettings(max_norm=NORM_CAP * float(base.norm()), solver=mo.Lbfgs(max_steps=50))
    row: dict[str, float] = {}
    for name, goal in (("kl", yard.behaviour), ("activation", yard.activation)):
        curvature = mo.derivatives.gauss_newton(goal, base, generator=torch.Generator().manual_seed(3))
        rows = []
        for result in mo.melbo_ortho(goal, base, seed=0, settings=settings, curvature=curvature):
            rows += [] if result.status in (mo.Status.COLLAPSED, mo.Status.NONFINITE) else [result.vector]
            if len(rows) >= FAMILY:
                break
        vectors = torch.stack([*rows, *torch.zeros(FAMILY - len(rows), len(base))])
        noise = mo.random_vectors(FAMILY, len(base), 1.0, torch.Generator().manual_seed(4))
        noise = noise * vectors.norm(dim=-1, keepdim=True)
        ours, theirs = measure(yard, vectors, held_out), measure(yard, noise)
        good = [r["transfer"] for r in ours if r["keeps"]]
        row |= {
            f"{name} kept": fmean(float(r["keeps"]) for r in ours),
            f"{name} random": fmean(float(r["keeps"]) for r in theirs),
            f"{name} norm": fmean(float(v.norm()) for v in vectors) / float(base.norm()),
            f"{name} transfer": fmean(good) if good else 0.0,
        }
    return row


COLUMNS = {
    "modes": "modes",
    "melbo_changes": "MELBO changes",
    "random_changes": "random changes",
    "gain": "gain",
    "kl kept": "KL kept",
    "kl random": "KL random",
    "activation kept": "activation kept",
    "activation random": "activation random",
}


def shares_table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: one line a variant, each cell its seeds' values; a dash where no code vector was found."""
    lines = [f"| recipe | {' | '.join(COLUMNS.values())} |", f"|{'---|' * (1 + len(COLUMNS))}"]
    for name in dict.fromkeys(row["variant"] for row in rows):
        ours = [row for row in rows if row["variant"] == name]
        cells = [" / ".join(f"{row[key]:.2f}" if key in row else "–" for row in ours) for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *judged(rows)])


def lead(row: dict[str, Any], match: str) -> float:
    """Share kept by a family minus share kept by random vectors of its norms; 0 where there was no base vector."""
    return row.get(f"{match} kept", 0.0) - row.get(f"{match} random", 0.0)


def judged(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each prediction: the value, its threshold, whether it held."""

    def mean(variant: str, value: Callable[[dict[str, Any]], float]) -> float:
        return fmean(value(row) for row in rows if row["variant"] == variant)

    def falls(variant: str, match: str) -> float:
        return mean("all four", lambda r: lead(r, match)) - mean(variant, lambda r: lead(r, match))

    fewer = mean("all four", lambda r: r["modes"]) - mean("none of them", lambda r: r["modes"])
    ratio = mean("without growth", lambda r: r["gain"]) / mean("all four", lambda r: r["gain"])
    predictions = [
        ("modes fewer with none of the parts", fewer, ">=", MODES_FEWER),
        ("gain without growth, relative", ratio, "<=", GAIN_RATIO),
        ("fall of the activation lead without growth", falls("without growth", "activation"), ">=", ACTIVATION_LEAD),
        *(
            (f"fall of the KL lead without {p}", falls(f"without {p}", "kl"), ">=", KL_LEAD)
            for p in ("leak", "openings", "offsets")
        ),
    ]
    return [
        f"- {text}: {value:.2f} (predicted {sign} {limit:g}): "
        f"{'held' if (value >= limit if sign == '>=' else value <= limit) else 'did not hold'}"
        for text, value, sign, limit in predictions
    ]
