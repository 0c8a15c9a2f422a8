"""The refusal direction stands for refusing, not for harmfulness: the two are different directions.

Source: notes that ask whether the direction represents refusal, harmfulness or both (O).
Prediction: over prompts in all four combinations of harmful or harmless and refused or answered, the difference that
    being refused makes and the difference that being harmful makes have a cosine of at most 0.5 (corrected for noise by
    disjoint halves of the prompts), refusal's own halves agree at least 0.5, and ablating the harmful one, its part
    along the other left out, removes at most 0.5 of the refusal score that ablating the refusal one removes.
Control: the same with the labels of refusal shuffled within each lead-in and class. What varies refusal are lead-ins
    before the requests, chosen by how often a model of the embedded kind refuses after them, before any direction was
    looked at; each has an offset of its own in the fit, for harmful and for harmless prompts. Where states vary mostly
    along one axis, shuffled labels give that axis with a random sign: its cosine changes sign between splits, but its
    ablation does as much as any, so that the control of the last prediction is a weak one.
Refuted if: the interval of the cosine or of the share lies above 0.5, or that of the halves' agreement below.
Changed after a first run: each prompt has an offset of its own in the fit, too, since without it the refusal
    directions of disjoint halves did not agree; and lead-ins have separate offsets for the two classes, since with one
    for both the shuffled labels gave a direction that halves agreed on. So this verdict is exploratory. The thresholds
    were not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.lab import (
    Bench,
    Ranking,
    Refusing,
    Splits,
    at_least,
    at_most,
    bars,
    column,
    each_split,
    needs,
    pick,
    random_order,
)
from mi_ortho import Verdict, resid_pre
from mi_ortho.nulls import CONTROLS
from mi_ortho.refusal import activations
from mi_ortho.stats import SIGNED_SCALE, auc_between

SAME = 0.5
SHARE = 0.5
LEAST = 6  # prompts that each half must have in every cell but harmless and refused, which is the rarest
LEADS = ("", "Please answer: ", "Hello. ", "Sure! ", "Repeat after me: ", "Thank you. ", "I like it. ", "Tell me: ")


@dataclass(frozen=True)
class Config(Splits):
    """Prompts of each kind, before lead-ins, and how many splits of them.

    The first embedded model is the standard one: its sibling refuses nearly all harmful prompts whatever leads in.
    """

    model: str | None = None
    train: int = 32
    test: int = 12


SMOKE = Config(train=12, validation=2, test=4, seeds=2)
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


def run(config: Config, bench: Bench) -> None:
    """Each split: prompts in four cells, two directions from them, and what ablating each does."""
    each_split(config, bench, measure, kind="cells")


def measure(study: Refusing, seed: int) -> None:
    """Record one split; where a cell is too small, only the counts."""
    layer, bench = study.strongest(), study.bench
    train = cells(study, study.sets.train_harmful, study.sets.train_harmless, layer)
    test = cells(study, study.sets.test_harmful, study.sets.test_harmless, layer)
    counts = train.counts()
    if enough(train) and int((test.harmful & test.refused).sum()):
        for labels, sample in (("own", train), ("shuffled", train.shuffled(bench.generator(5000 + seed)))):
            bench.record(kind="directions", seed=seed, labels=labels, **compared(sample))
        bench.record(kind="ablation", seed=seed, **ablations(study, train, test, seed))
        bench.record(kind="reading", seed=seed, **readings(train, test))
    bench.record(kind="cells", seed=seed, layer=layer, **counts)


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
    """What being harmful and what being refused adds to a state.

    Refusal: least squares with an offset for each lead-in and class and one for each prompt, so that neither what a
    lead-in does to all harmful prompts nor what a prompt is counts. Harmfulness: difference of class means left then.
    """
    groups = (2 * sample.lead + sample.harmful.long(), sample.prompt)
    offsets = [torch.nn.functional.one_hot(labels).double() for labels in groups]
    design = torch.cat([*(part[:, part.any(dim=0)] for part in offsets), sample.refused[:, None].double()], dim=1)
    states = sample.states.double()
    refused = torch.linalg.lstsq(design, states, driver="gelsd").solution[-1]
    rest = states - sample.refused[:, None].double() * refused
    return torch.stack([rest[sample.harmful].mean(dim=0) - rest[~sample.harmful].mean(dim=0), refused])


def compared(sample: Cells) -> dict[str, float | None]:
    """Cosines of the two directions between halves of the prompts: each with itself, and of one with the other."""
    one, two = (torch.nn.functional.normalize(directions(half), dim=-1) for half in sample.halves())
    cosines = one @ two.mT
    least, ceiling = float(cosines.diagonal().min()), float(cosines.diagonal().prod())
    between = float(cosines[0, 1] + cosines[1, 0]) / 2
    # a direction that does not agree with itself is noise and has no cosine with the other
    return {
        "cosine": between / ceiling**0.5 if least >= SAME else None,
        "raw": between,
        "harmful_halves": float(cosines[0, 0]),
        "refused_halves": float(cosines[1, 1]),
    }


def ablations(study: Refusing, train: Cells, test: Cells, seed: int) -> dict[str, float | None]:
    """Nats of refusal score of refused harmful test prompts that each direction's ablation everywhere removes."""
    every = [lead + text for lead in LEADS for text in (*study.sets.test_harmful, *study.sets.test_harmless)]
    texts = [every[k] for k in (test.harmful & test.refused).nonzero()[:, 0].tolist()]
    harmful, refused = directions(train)
    null = directions(train.shuffled(study.bench.generator(5000 + seed)))[1]
    unit = torch.nn.functional.normalize(refused, dim=0)
    tried = {"refused": refused, "harmful": harmful, "harmful_rest": harmful - (harmful @ unit) * unit, "null": null}
    drops = {name: float(study.drop(texts, row.float()).mean()) for name, row in tried.items()}
    full = drops["refused"]
    return {
        **drops,
        "share": drops["harmful_rest"] / full if full > 0 else None,
        "null_share": drops["null"] / full if full > 0 else None,
    }


def readings(train: Cells, test: Cells) -> dict[str, float | None]:
    """AUC of each direction's projection for each label on test prompts, the other label held fixed."""
    along = test.states.double() @ torch.nn.functional.normalize(directions(train), dim=-1).mT
    fixed = {"harmful": (test.harmful, ~test.refused), "refused": (test.refused, test.harmful)}
    areas: dict[str, float | None] = {}
    for k, direction in enumerate(("harmful", "refused")):
        for label, (positive, among) in fixed.items():
            a, b = along[positive & among, k], along[~positive & among, k]
            areas[f"{direction}_reads_{label}"] = float(auc_between(a, b)) if len(a) and len(b) else None
    return areas


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Verdicts on claim O: cosine of the two directions, agreement of halves, ablation."""
    real, null = (pick(rows, kind="directions", labels=name) for name in ("own", "shuffled"))
    ablation = pick(rows, kind="ablation")
    return [
        at_most(
            "O: refusal and harmfulness are different directions",
            f"cosine at most {SAME}, corrected for noise",
            "cosine between halves of the prompts, over that of each direction with itself; control: raw cosine, "
            "shuffled labels",
            column(real, "cosine"),
            SAME,
            column(null, "raw"),
        ),
        at_least(
            "O: the refusal direction among equally harmful prompts is no noise",
            f"halves agree at least {SAME}",
            "cosine between halves of the prompts; control: shuffled labels",
            column(real, "refused_halves"),
            SAME,
            column(null, "refused_halves"),
            scale=SIGNED_SCALE,
        ),
        at_most(
            "O: ablating harmfulness takes less refusal away",
            f"at most {SHARE} of what ablating refusal removes",
            "share of the refusal score of refused harmful prompts; control: the direction of shuffled labels",
            column(ablation, "share"),
            SHARE,
            column(ablation, "null_share"),
        ),
    ]


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Ranking]:
    """Cosines, ablations, and what each direction reads."""
    real, null = (pick(rows, kind="directions", labels=name) for name in ("own", "shuffled"))
    if not real:
        return []
    names = {
        "raw": "harmful with refused",
        "harmful_halves": "harmful with itself",
        "refused_halves": "refused with itself",
    }
    cosines = [
        (f"{label}{extra}", column(part, name), style)
        for name, label in names.items()
        for part, extra, style in ((real, "", "value"), (null, ", shuffled", "control"))
    ]
    labels = {
        "refused": "refusal",
        "harmful": "harmfulness",
        "harmful_rest": "harmfulness without refusal's part",
        "null": CONTROLS["shuffled_labels"].label,
    }
    ablated = [
        (label, column(pick(rows, kind="ablation"), name), "control" if name == "null" else "value")
        for name, label in labels.items()
    ]
    reads = [
        (f"{a} direction reads {b}", column(pick(rows, kind="reading"), f"{a}_reads_{b}"), "value")
        for a in ("harmful", "refused")
        for b in ("harmful", "refused")
    ]
    caption = "Means over splits with 95 % intervals."
    drawings = [
        bars("Cosines between halves of the prompts", caption, cosines, SAME, "cosine"),
        bars("Refusal score removed by ablation", caption, ablated, None, "nats"),
    ]
    if any(values for _, values, _ in reads):
        caption = "AUC on test prompts, harmfulness among answered ones, refusal among harmful ones; means over splits."
        drawings.append(bars("What each direction tells apart", caption, reads, 0.5, "AUC"))
    return drawings
