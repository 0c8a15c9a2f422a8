"""What all experiments share: how a claim is written, run, judged and rendered. Experiments import only these names."""

from experiments.lab.bases import Base, Place, each_base, read_bases, unbased
from experiments.lab.bases import Family as GrownFamily
from experiments.lab.bench import Bench, random_order
from experiments.lab.controls import random_texts, shuffled_weights
from experiments.lab.families import DEMO, Case, Family, Setup, cases
from experiments.lab.figures import Lines, Ranking, bars
from experiments.lab.judging import at_least, at_most, column, interval_of
from experiments.lab.layers import record_layers, verdicts_of
from experiments.lab.readings import Reading, Total
from experiments.lab.refusing import Refusing, Splits, each_split, refuses, refusing
from mi_ortho.runs import pick

__all__ = [
    "DEMO",
    "Base",
    "Bench",
    "Case",
    "Family",
    "GrownFamily",
    "Lines",
    "Place",
    "Ranking",
    "Reading",
    "Refusing",
    "Setup",
    "Splits",
    "Total",
    "at_least",
    "at_most",
    "bars",
    "cases",
    "column",
    "each_base",
    "each_split",
    "interval_of",
    "pick",
    "random_order",
    "random_texts",
    "read_bases",
    "record_layers",
    "refuses",
    "refusing",
    "shuffled_weights",
    "unbased",
    "verdicts_of",
]
