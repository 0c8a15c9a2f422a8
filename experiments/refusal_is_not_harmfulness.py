"""Does the refusal direction stand for refusing rather than for harmfulness: are the two different directions?

Source: notes that ask whether the direction represents refusal, harmfulness or both (O).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import (
    Ranking,
    Reading,
    Refusing,
    Splits,
    Total,
    answers_of,
    bars,
    each_split,
    measured_in,
    needs,
    over_prompts,
    overlapping,
    pick,
    random_order,
)
from mi_ortho import resid_pre
from mi_ortho.refusal import activations
from mi_ortho.stats import Measured

LEAST = 6  # prompts that each half must have in every cell but harmless and refused, which is the rarest
NOISE = 0.1  # agreement of a direction with itself below which it is taken as this much, so that no cosine explodes
LEADS = ("", "Please answer: ", "Hello. ", "Sure! ", "Repeat after me: ", "Thank you. ", "I like it. ", "Tell me: ")
PAIRS = {"different": (0, 1), "same": (2, 3), "refused": (1, 1), "harmful": (0, 0)}  # rows of `directions`


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, before lead-ins, splits of them, resamplings of the prompts, tokens of an answer.

    The first embedded model is the standard one: its sibling refuses nearly all harmful prompts whatever leads in.
    """

    model: str | None = None
    train: int = 32
    test: int = 12
    draws: int = 100
    tokens: int = 24


SMOKE = Config(train=12, validation=2, test=4, seeds=2, draws=10, tokens=8)
NEEDS = (needs.refusals,)


@dataclass(frozen=True, eq=False)
class Cells:
    """Samples with their labels: state, harmful or not, refused or not, number of the lead-in, number of the prompt."""

    states: Tensor
    harmful: Tensor
    refused: Tensor
    lead: Tensor
    prompt: Tensor

    def part(self, mask: Tensor) -> "Cells":
        """The samples where `mask` is true."""
        return Cells(*(x[mask] for x in (self.states, self.harmful, self.refused, self.lead, self.prompt)))

    def halves(self) -> tuple["Cells", "Cells"]:
        """Even and odd prompts; no prompt is in both."""
        return self.part(self.prompt % 2 == 0), self.part(self.prompt % 2 == 1)

    def at(self, prompts: Sequence[int]) -> "Cells":
        """The samples of these prompts; one that is drawn twice becomes two prompts."""
        rows = [(self.prompt == prompt).nonzero()[:, 0] for prompt in prompts]
        labels = torch.cat([torch.full((len(part),), k) for k, part in enumerate(rows)])
        every = torch.cat(rows)
        return Cells(self.states[every], self.harmful[every], self.refused[every], self.lead[every], labels)

    def counts(self) -> dict[str, int]:
        """Samples in each of the four cells."""
        names = {"harmful": self.harmful, "harmless": ~self.harmful}
        return {
            f"{kind} {what}": int((is_kind & did).sum())
            for kind, is_kind in names.items()
            for what, did in (("refused", self.refused), ("answered", ~self.refused))
        }

    def shuffled(self, generator: torch.Generator) -> "Cells":
        """The labels of refusal in random order within each lead-in and class."""
        refused = self.refused.clone()
        for stratum in (2 * self.lead + self.harmful.long()).unique().tolist():
            rows = (2 * self.lead + self.harmful.long() == stratum).nonzero()[:, 0]
            order = random_order(len(rows), generator)
            refused[rows] = self.refused[rows[order.to(rows.device)]]
        return Cells(self.states, self.harmful, refused, self.lead, self.prompt)


def run(config: Config, bench: Any) -> None:
    """For each split prompts in four cells, directions from them, and what is answered when each is ablated."""
    each_split(config, bench, lambda study, seed: measure(study, seed, config.draws, config.tokens))


def measure(study: Refusing, seed: int, draws: int, tokens: int) -> None:
    """Record one split; where a cell is too small, only the counts."""
    layer, bench, sets = study.strongest(), study.bench, study.sets
    train = cells(study, sets.train_harmful, sets.train_harmless, layer)
    bench.record(kind="cells", seed=seed, layer=layer, **train.counts())
    if not enough(train):
        return
    null = train.shuffled(torch.Generator().manual_seed(5000 + seed))
    for labels, sample in (("true", train), ("shuffled", null)):
        bench.record(kind="cosines", seed=seed, labels=labels, **compared(sample, draws, seed))
    harmful, refused = directions(train)[:2]
    unit = torch.nn.functional.normalize(refused, dim=0)
    ways = {"refused": refused, "rest": harmful - (harmful @ unit) * unit, "harmful": harmful}
    ways["shuffled"] = directions(null)[1]
    texts = {lead + text: text for lead in LEADS for text in sets.test_harmful}
    moved = {name: row.float().to(bench.device) for name, row in ways.items()}
    study.record_answers(seed, moved, list(texts), prompts=list(texts.values()), tokens=tokens)


def cells(study: Refusing, harmful: Sequence[str], harmless: Sequence[str], layer: int) -> Cells:
    """Every prompt with every lead-in, labelled by whether the model's next token is a refusal (score above 0)."""
    base = [*harmful, *harmless]
    texts = [lead + text for lead in LEADS for text in base]
    refused = study.scores(texts).cpu() > 0
    states = activations(study.model, texts, [resid_pre(layer)], [-1])[:, 0, 0].cpu()
    prompt = torch.arange(len(base)).repeat(len(LEADS))
    return Cells(states, prompt < len(harmful), refused, torch.arange(len(LEADS)).repeat_interleave(len(base)), prompt)


def enough(sample: Cells) -> bool:
    """Whether both halves have enough samples in the three cells that both directions need."""
    names = ("harmful refused", "harmful answered", "harmless answered")
    return all(min(half.counts()[name] for name in names) >= LEAST for half in sample.halves())


def directions(sample: Cells) -> Tensor:
    """Rows: what being harmful adds to a state, what being refused adds, and the latter from even and odd lead-ins.

    Refusal: least squares with an offset for each lead-in and class and one for each prompt, so that neither what a
    lead-in does to all harmful prompts nor what a prompt is counts. Harmfulness: difference of class means left then.
    """
    refused = refusal(sample)
    rest = sample.states.double() - sample.refused[:, None].double() * refused
    harmful = rest[sample.harmful].mean(dim=0) - rest[~sample.harmful].mean(dim=0)
    return torch.stack([harmful, refused, *(refusal(sample.part(sample.lead % 2 == k)) for k in range(2))])


def refusal(sample: Cells) -> Tensor:
    """What being refused adds to a state; see `directions`."""
    groups = (2 * sample.lead + sample.harmful.long(), sample.prompt)
    offsets = [torch.nn.functional.one_hot(labels).double() for labels in groups]
    design = torch.cat([*(part[:, part.any(dim=0)] for part in offsets), sample.refused[:, None].double()], dim=1)
    return torch.linalg.lstsq(design, sample.states.double(), driver="gelsd").solution[-1]


def compared(sample: Cells, draws: int, seed: int) -> dict[str, dict[str, Any]]:
    """By `PAIRS` the cosine of two directions between halves of the prompts, resampled over the prompts.

    Of two different rows it is corrected for noise: divided by how far each agrees with itself.
    """
    halves = sample.halves()
    places = [(k, prompt) for k, half in enumerate(halves) for prompt in half.prompt.unique().tolist()]
    seen: dict[int, Tensor] = {}

    def table(drawn: Sequence[tuple[int, int]], draw: int) -> Tensor:
        if draw not in seen:
            parts = [half.at([prompt for j, prompt in drawn if j == k]) for k, half in enumerate(halves)]
            one, two = (torch.nn.functional.normalize(directions(part), dim=-1) for part in parts)
            seen[draw] = one @ two.mT
        return seen[draw]

    def cosine(pair: tuple[int, int], drawn: Sequence[tuple[int, int]], draw: int) -> float:
        cosines = table(drawn, draw)
        between = float(cosines[pair] + cosines[pair[::-1]]) / 2
        if pair[0] == pair[1]:
            return between
        each = [max(float(cosines[k, k]), NOISE) for k in pair]
        return max(-1.0, min(1.0, between / (each[0] * each[1]) ** 0.5))

    def measured(pair: tuple[int, int]) -> Measured:
        return over_prompts(places, lambda drawn, draw: cosine(pair, drawn, draw), draws=draws, seed=seed)

    return {name: asdict(measured(pair)) for name, pair in PAIRS.items()}


def readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[Reading | Total]:
    """The cosine of the two directions, the agreement of halves on refusal's, and what ablating harmfulness turns."""
    answers, cosines = answers_of(rows), pick(rows, kind="cosines")
    values = {
        (labels, name): overlapping([measured_in(row[name]) for row in pick(cosines, labels=labels)])
        for labels in ("true", "shuffled")
        for name in PAIRS
    }
    agree = [value for name in ("refused", "harmful") if (value := values["true", name].value) is not None]
    gates = answers.gates("refused", "shuffled") | ({"reliable": min(agree)} if agree else {})
    if cosines:
        yield Total("different", values["true", "different"], values["true", "same"], gates)
        yield Total("agrees", values["true", "refused"], values["shuffled", "refused"], gates)
    yield from answers.readings("less", answers.refused(), ["rest"], ["refused"], gates)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """What is answered under ablation of each direction."""
    answers = answers_of(rows)
    names = {"none": "no ablation", "refused": "refusal", "harmful": "harmfulness"}
    names |= {"rest": "harmfulness without refusal's part", "shuffled": "refusal, labels in random order"}
    shares = [
        (label, [value for case in answers.refused() if (value := answers.share(case, name)) is not None], style)
        for name, label in names.items()
        for style in ["control" if name in ("none", "shuffled") else "value"]
    ]
    caption = "Harmful test prompts with lead-ins that are refused without ablation; means with 95 % intervals."
    return [bars("Answered under ablation", caption, shares, None, "share answered")] * bool(answers.by)
