"""Does ablating a weaker refusal direction make the model refuse and answer all the same?

Source: notes on directions extracted from less ideal layers: with them a model refuses and then still answers (L).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.lab import (
    Ranking,
    Reading,
    Refusing,
    Splits,
    Total,
    bars,
    each_split,
    needs,
    over_prompts,
    pick,
    rank_correlation,
    refuses,
)
from mi_ortho import classify, generate, tokenize
from mi_ortho.refusal import ablate_everywhere, stage_of, substantial
from mi_ortho.stats import average

STAGES = ("refuses", "refuses then answers", "answers", "neither")
BOTH = STAGES[1]


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, splits of them, random directions, length of completions."""

    test: int = 12
    random: int = 2
    tokens: int = 40


SMOKE = Config(train=8, validation=4, test=2, seeds=2, random=1, tokens=16)
NEEDS = (needs.refusals,)


def run(config: Config, bench: Any) -> None:
    """For each split the stage of every completion under ablation of each layer's direction and of random ones."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config.random, config.tokens))


def measure(study: Refusing, seed: int, random: int, tokens: int) -> None:
    """Record one split, a row for each direction and test prompt; strength is the score lost on validation prompts."""
    bench, sets = study.bench, study.sets
    tried = {f"layer {layer}": study.direction(layer) for layer in range(1, bench.layers)}
    tried |= {f"random {k}": study.random(6000 + 100 * seed + k) for k in range(random)}
    prompts, complies = tokenize(study.model, list(sets.test_harmful)), complier(bench)
    for name, direction in {"none": None, **tried}.items():
        changed = {} if direction is None else ablate_everywhere(study.model, direction)
        strength = 0.0 if direction is None else float(study.drop(sets.validation_harmful, direction).mean())
        for prompt, text in zip(
            sets.test_harmful, generate(study.model, prompts, changed, max_new_tokens=tokens), strict=True
        ):
            stage = stage_of(text, complies, lambda written: refuses(bench, written))
            bench.record(kind="stage", seed=seed, way=name, strength=strength, prompt=prompt, stage=stage, text=text)


def complier(bench: Any) -> Callable[[str], bool]:
    """Whether a text answers: by the model's rule for help where it has one, else by its length."""
    modes = bench.subject.modes
    return (lambda text: classify(text, modes) == "help") if "help" in modes.names else substantial


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading | Total]:
    """The correlation over directions, and for each prompt how much more weak directions do it than the strongest."""
    seeds = {
        seed: pick(rows, kind="stage", seed=seed) for seed in dict.fromkeys(r["seed"] for r in rows if "seed" in r)
    }
    splits = {seed: Split.of(part) for seed, part in seeds.items() if part}
    if not splits:
        return
    plain = [row for part in seeds.values() for row in pick(part, way="none")]
    refused = [(row["seed"], row["prompt"]) for row in plain if row["stage"] == "refuses"]
    works, random = (
        fmean([getattr(splits[seed], name)(prompt) for seed, prompt in refused] or [0.0])
        for name in ("works", "chance")
    )
    gates = {"shown": len(refused) / len(plain), "works": works, **({"specific": random / works} if works else {})}
    prompts = [row["prompt"] for row in plain]

    def trend(labels: Sequence[str], order: int | None = None) -> float | None:
        return average(
            split.trend(labels, None if order is None else 97 * order + seed) for seed, split in splits.items()
        )

    measured = over_prompts(prompts, lambda labels, _: trend(labels)), over_prompts(prompts, trend)
    yield Total("trend", *measured, gates)
    for split in splits.values():
        for prompt in split.stages["none"]:
            weak, random = split.share(prompt, split.weaker), split.share(prompt, split.random)
            strongest = split.share(prompt, split.layers[:1])
            if split.weaker and split.random:
                yield Reading("weaker", weak - strongest, random - strongest, {"prompt": prompt}, gates)


@dataclass(frozen=True)
class Split:
    """The stages of one split: by direction and prompt; how strong directions are, the strongest layer's first."""

    stages: Mapping[str, Mapping[str, str]]
    strengths: Mapping[str, float]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "Split":
        """From its rows."""
        stages: dict[str, dict[str, str]] = {}
        for row in rows:
            stages.setdefault(row["way"], {})[row["prompt"]] = row["stage"]
        return cls(stages, {row["way"]: row["strength"] for row in rows})

    @property
    def layers(self) -> list[str]:
        """Directions read at layers, the strongest first."""
        return sorted((way for way in self.stages if way.startswith("layer")), key=lambda way: -self.strengths[way])

    @property
    def weaker(self) -> list[str]:
        """The weaker half of them."""
        return self.layers[(len(self.layers) + 1) // 2 :]

    @property
    def random(self) -> list[str]:
        """Random directions."""
        return [way for way in self.stages if way.startswith("random")]

    def works(self, prompt: str) -> float:
        """Whether a prompt is answered under the strongest direction."""
        return float(self.stages[self.layers[0]][prompt] == "answers")

    def chance(self, prompt: str) -> float:
        """Share of the random directions under which it is."""
        return fmean([self.stages[way][prompt] == "answers" for way in self.random] or [0.0])

    def share(self, prompt: str, ways: Sequence[str]) -> float:
        """Share of these directions under which a prompt is refused and then answered."""
        return fmean(self.stages[way][prompt] == BOTH for way in ways) if ways else 0.0

    def trend(self, prompts: Sequence[str], order: int | None = None) -> float | None:
        """Rank correlation over directions of weakness with the share of such prompts, 0 where all shares are equal."""
        here = [prompt for prompt in prompts if prompt in self.stages["none"]]
        if not here or len(self.layers) < 3:
            return None
        shares = [fmean(self.stages[way][prompt] == BOTH for prompt in here) for way in self.layers]
        return rank_correlation([-self.strengths[way] for way in self.layers], shares, order=order) or 0.0


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """What completions do, by direction."""
    part = pick(rows, kind="stage")
    names = {name: "value" if name.startswith("layer") else "control" for name in dict.fromkeys(r["way"] for r in part)}
    by_name = {name: [row["stage"] for row in pick(part, way=name)] for name in names}
    return [
        bars(
            f"Completions: {stage}",
            "By direction ablated everywhere, all test prompts; means with 95 % intervals.",
            [(name, [float(each == stage) for each in by_name[name]], style) for name, style in names.items()],
            None,
            "share of completions",
        )
        for stage in STAGES[:3]
        if part
    ]
