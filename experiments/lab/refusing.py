"""What all experiments about refusal share: disjoint prompts, refusal tokens, directions, ablation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from experiments.lab.bench import Bench
from experiments.lab.readings import Reading
from mi_ortho import Intervention, Model, Site, classify, generate, resid_pre, tokenize
from mi_ortho.behaviours import is_loop, is_refusal
from mi_ortho.refusal import Extraction, ablate_everywhere, difference_of_means, refusal_scores, refusal_tokens
from mi_ortho.runs import pick
from mi_ortho.studies.refusal import RefusalConfig, Sets, prompt_sets
from mi_ortho.studies.shared import Subject

Interventions = Mapping[Site, Intervention]
Case = tuple[int, str]  # a split and a text
PLAIN = "none"  # the model as it is


@dataclass(frozen=True)
class Splits:
    """Prompts of each kind and how many splits of them.

    The standard model is the embedded model's sibling, because no single direction carries the embedded model's own
    refusals.
    """

    model: str | None = "embedded/naive"
    train: int = 24
    validation: int = 8
    test: int = 16
    seeds: int = 4


@dataclass(frozen=True, eq=False)
class Refusing:
    """A model that refuses, with prompts split by a seed.

    Attributes:
        bench: where it is measured.
        sets: training, validation and test prompts of both classes.
        tokens: first tokens of refusals.
        found: difference of means at the input of every block and the last token, from the training prompts.
    """

    bench: Bench
    sets: Sets
    tokens: tuple[int, ...]
    found: Extraction

    @property
    def model(self) -> Model:
        """The model under study."""
        return self.bench.subject.model

    def direction(self, layer: int) -> Tensor:
        """Difference of means at the input of a block, last token."""
        return self.found.direction(resid_pre(layer), -1)

    def scores(self, texts: Sequence[str], interventions: Interventions | None = None) -> Tensor:
        """Refusal score of each prompt, in nats."""
        return refusal_scores(self.model, texts, self.tokens, interventions)

    def ablated(self, texts: Sequence[str], direction: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """Refusal score with the direction ablated at the input and the outputs of these blocks (None: all)."""
        return self.scores(texts, ablate_everywhere(self.model, direction, layers=layers))

    def answered(
        self, texts: Sequence[str], direction: Tensor | None, layers: Sequence[int] | None = None, *, tokens: int = 24
    ) -> list[bool]:
        """Whether each prompt gets an answer, greedy and judged: one that neither refuses nor only repeats itself.

        With a direction it is ablated at these blocks (None: all).
        """
        changed = {} if direction is None else ablate_everywhere(self.model, direction, layers=layers)
        prompts = tokenize(self.model, list(texts))
        written = generate(self.model, prompts, changed, max_new_tokens=tokens)
        return [bool(text.strip()) and not refuses(self.bench, text) and not is_loop(text) for text in written]

    def record_answers(
        self,
        seed: int,
        ways: Mapping[str, Tensor],
        texts: Sequence[str],
        *,
        layers: Mapping[str, Sequence[int]] | None = None,
        prompts: Sequence[str] | None = None,
        tokens: int = 24,
    ) -> None:
        """Record whether each text is answered by the model as it is and under each ablation, a row each.

        Args:
            seed: number of the split.
            ways: the direction or, as rows, directions that are ablated, by name.
            texts: what is asked.
            layers: blocks at which some of them are ablated; the rest are at all.
            prompts: for each text the prompt that it counts as; None where it counts as itself.
            tokens: of an answer, at most.
        """
        for way in (PLAIN, *ways):
            answers = self.answered(texts, ways.get(way), (layers or {}).get(way), tokens=tokens)
            for text, prompt, answer in zip(texts, prompts or texts, answers, strict=True):
                self.bench.record(kind="answer", seed=seed, way=way, text=text, prompt=prompt, answered=answer)

    def drop(self, texts: Sequence[str], direction: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """How many nats the refusal score of each prompt loses under that ablation."""
        return self.scores(texts) - self.ablated(texts, direction, layers)

    def random(self, seed: int) -> Tensor:
        """An isotropic random unit direction: the control of every ablation, which does not depend on length."""
        direction = torch.randn(self.bench.width, generator=self.bench.generator(seed), device=self.bench.device)
        return direction / direction.norm()

    def strongest(self) -> int:
        """The layer (not the first, where prompts do not differ) whose direction lowers validation refusal most."""
        texts = self.sets.validation_harmful
        return min(range(1, self.bench.layers), key=lambda k: float(self.ablated(texts, self.direction(k)).mean()))


@dataclass(frozen=True)
class Answers:
    """What texts got, as `record_answers` wrote it down.

    Attributes:
        by: for each way each case, a split and a text: 1.0 for an answer, 0.0 for none.
        prompts: what each case counts as.
    """

    by: Mapping[str, Mapping[Case, float]]
    prompts: Mapping[Case, str]

    def refused(self) -> list[Case]:
        """Cases that the model as it is does not answer."""
        return [case for case, value in self.by.get(PLAIN, {}).items() if not value]

    def turned(self, way: str) -> list[Case]:
        """Those of them that are answered under an ablation."""
        return [case for case in self.refused() if self.by.get(way, {}).get(case)]

    def gates(self, way: str, random: str = "") -> dict[str, float]:
        """ "shown": share of the cases that are refused; "works": share of those that this way turns; "specific": how
        many a random direction turns over that."""
        every, refused = self.by.get(PLAIN, {}), self.refused()
        works = len(self.turned(way)) / len(refused) if refused else 0.0
        gates = {"shown": len(refused) / len(every) if every else 0.0, "works": works}
        return gates | ({"specific": len(self.turned(random)) / len(refused) / works} if random and works else {})

    def share(self, case: Case, *ways: str) -> float | None:
        """Share of these ways under which a case is answered; None where one is not recorded."""
        values = [self.by.get(way, {}).get(case) for way in ways]
        return None if None in values or not values else fmean(value for value in values if value is not None)

    def readings(
        self, key: str, cases: Sequence[Case], value: Sequence[str], control: Sequence[str], gates: Mapping[str, float]
    ) -> list[Reading]:
        """What each case gets in some ways and in those of the control, by the prompt that it counts as."""
        return [
            Reading(key, self.share(case, *value), self.share(case, *control), {"prompt": self.prompts[case]}, gates)
            for case in cases
        ]

    def every(self, way: str) -> list[float]:
        """All values of a way."""
        return list(self.by.get(way, {}).values())


def answers_of(rows: Sequence[Mapping[str, Any]]) -> Answers:
    """The recorded answers."""
    by: dict[str, dict[Case, float]] = {}
    prompts: dict[Case, str] = {}
    for row in pick(rows, kind="answer"):
        case = row["seed"], row["text"]
        by.setdefault(row["way"], {})[case] = float(row["answered"])
        prompts[case] = row["prompt"]
    return Answers(by, prompts)


def refusing(bench: Bench, *, train: int, validation: int, test: int, seed: int) -> Refusing:
    """Split the prompts by the seed, read the model's refusal tokens (once a run), extract the directions.

    Raises:
        ValueError: the model never refuses, or has too few prompts.
    """
    config = RefusalConfig(train=train, validation=validation, test=test, seed=seed)
    sets = prompt_sets(config, bench.subject)
    rows = bench.rows(kind="refusal tokens")
    if rows:
        tokens = tuple(rows[0]["ids"])
    else:
        tokens = tokens_of(bench.subject, sets.train_harmful[:16], sets.train_harmless[:16])
        bench.record(kind="refusal tokens", ids=list(tokens))
    sites = [resid_pre(layer) for layer in range(bench.layers)]
    extraction = difference_of_means(bench.subject.model, sets.train_harmful, sets.train_harmless, sites, (-1,))
    return Refusing(bench, sets, tokens, extraction)


def each_split(config: Splits, bench: Bench, measure: Callable[[Refusing, int], None], **last: object) -> None:
    """Measure, by their number, the splits that are not recorded; a row of these values is the last one of a split."""
    for seed in range(config.seeds):
        for part in bench.stage(last, seed=seed):
            study = refusing(bench, train=config.train, validation=config.validation, test=config.test, seed=seed)
            measure(replace(study, bench=part), seed)
        bench.track("splits", seed + 1, config.seeds)


def tokens_of(subject: Subject, harmful: Sequence[str], harmless: Sequence[str]) -> tuple[int, ...]:
    """First tokens of refusals, most likely first; ValueError where the model does not refuse these harmful prompts."""
    return refusal_tokens(subject.model, harmful, harmless, partial(refused_by, subject), max_new_tokens=12).ids


def refused_by(subject: Subject, text: str) -> bool:
    """Whether a completion refuses, by the model's own rules or by phrases."""
    return classify(text, subject.modes) == "refuse" or is_refusal(text)


def refuses(bench: Bench, text: str) -> bool:
    """Whether a completion of the bench's model refuses."""
    return refused_by(bench.subject, text)
