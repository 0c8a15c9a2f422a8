"""What all experiments share: how a claim is written, run, judged and rendered. Experiments import only these names."""

from experiments.lab.bases import Base, Family, Place, as_far, bases_of, change, each_base, read_bases, unbased
from experiments.lab.bench import Bench, random_order
from experiments.lab.controls import random_texts, shuffled_weights
from experiments.lab.figures import Lines, Ranking, bars
from experiments.lab.layers import beside, curves_of, once, record_layers, resampled
from experiments.lab.readings import Reading, Total, measured_in, over_prompts, overlapping, rank_correlation
from experiments.lab.refusing import Answers, Refusing, Splits, answers_of, each_split, refuses, refusing
from mi_ortho.runs import numbers as column
from mi_ortho.runs import pick

__all__ = [
    "Answers",
    "Base",
    "Bench",
    "Family",
    "Lines",
    "Place",
    "Ranking",
    "Reading",
    "Refusing",
    "Splits",
    "Total",
    "answers_of",
    "as_far",
    "bars",
    "bases_of",
    "beside",
    "change",
    "column",
    "curves_of",
    "each_base",
    "each_split",
    "measured_in",
    "once",
    "over_prompts",
    "overlapping",
    "pick",
    "random_order",
    "random_texts",
    "rank_correlation",
    "read_bases",
    "record_layers",
    "refuses",
    "refusing",
    "resampled",
    "shuffled_weights",
    "unbased",
]
