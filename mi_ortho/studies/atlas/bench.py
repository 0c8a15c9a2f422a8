"""What every stage of an atlas shares: the model, the texts, the pairs of layers, and the rows so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_ortho.behaviours import CHAT_MODES
from mi_ortho.elicitation import random_vectors
from mi_ortho.interventions.sites import resid_post
from mi_ortho.model import Slice, slice_model
from mi_ortho.runs.directory import Run
from mi_ortho.runs.rows import pick, stage
from mi_ortho.runs.seeds import random_stream
from mi_ortho.runs.settings import check_settings
from mi_ortho.steering import Setting
from mi_ortho.studies.atlas.config import AtlasConfig
from mi_ortho.studies.shared.positions import where
from mi_ortho.studies.shared.progress import Say, Track
from mi_ortho.studies.shared.subject import Subject

SOURCES = (0.13, 0.27, 0.33, 0.4, 0.53)  # of the depth: late ones leave too little to read
BLOCKS = (0.13, 0.27, 0.4)
LEAST = {"candidates": 1, "steps": 1, "values": 2, "max_new_tokens": 1, "sources": 0, "blocks": 1}
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Bench:
    """A configured atlas: the run directory, the model, and the pairs (source, target) in the order they are tried.

    `sinks` is the treatment of attention sinks as `Setting` has it.
    """

    run: Run
    config: AtlasConfig
    subject: Subject
    texts: tuple[str, ...]
    pairs: tuple[Pair, ...]
    sinks: str
    say: Say
    track: Track

    def setting(self, source: int) -> Setting:
        """How the model is steered after a block, and by which rules its answers are judged.

        Rules that ask for no coherence are given the one of chat models: a large vector ends in nonsense everywhere.
        """
        config, model = self.config, self.subject.model
        modes = self.subject.modes
        judged = replace(modes, least=CHAT_MODES.least) if modes.least is None else modes
        place = (resid_post(source), where(config.where), judged, config.system)
        return Setting(model, *place, max_new_tokens=config.max_new_tokens, seed=config.seed, sinks=self.sinks)

    def map(self, pair: Pair) -> Slice:
        """z of a pair, read at all positions."""
        setting, target = self.setting(pair[0]), resid_post(pair[1])
        prompts = setting.prompts(self.texts)
        return slice_model(
            setting.model, prompts, source=setting.site, target=target, readout="all", where=setting.where
        )

    def generator(self, *numbers: int) -> torch.Generator:
        """A random stream of its own for each stage, so that leaving out a finished one changes no other."""
        return random_stream(self.config.seed, *numbers, times=1009, plus=1, device=self.subject.device)

    def random_directions(self, source: int) -> Float[Tensor, "n d_model"]:
        """The control of a source: unit vectors, the same ones for every target and norm."""
        width = int(self.subject.model.cfg.d_model)
        return random_vectors(self.config.candidates, width, 1.0, self.generator(0, source))

    def rows(self, **values: object) -> list[dict[str, Any]]:
        """Recorded rows with these values."""
        return pick(self.run.records(), **values)

    def stage(self, name: str, compute: Callable[[], Sequence[Mapping[str, object]]]) -> None:
        """Record the rows of a stage unless the run has them."""
        stage(self.run, name, compute)


def skip_gain(z: Slice) -> float:
    """|z(theta) - z(0)| / |theta| if the blocks did nothing: every steered position that is read holds theta itself."""
    return float((z.where_mask & z.real).sum()) ** 0.5


def pairs_of(config: AtlasConfig, layers: int) -> tuple[Pair, ...]:
    """The pairs (source, target) of a model with so many blocks.

    >>> pairs_of(AtlasConfig(sources=(2, 4), blocks=(1, 3)), 6)
    ((2, 3), (2, 5), (4, 5))

    Raises:
        ValueError: a source the model does not have, or no pair.
    """
    sources = by_depth(SOURCES, layers, 0) if config.sources is None else config.sources
    blocks = by_depth(BLOCKS, layers, 1) if config.blocks is None else config.blocks
    if sources and max(sources) >= layers:
        raise ValueError(f"got source {max(sources)}; expected blocks from 0 to {layers - 1}; correct --sources")
    steps = sorted({(source, source + more) for source in sources for more in blocks})
    pairs = tuple((source, target) for source, target in steps if target < layers)
    if not pairs:
        raise ValueError(
            f"got sources {list(sources)} and blocks {list(blocks)} for a model of {layers} blocks; expected one pair "
            "at least; lower --sources or --blocks"
        )
    return pairs


def by_depth(shares: Sequence[float], layers: int, least: int) -> tuple[int, ...]:
    """Shares of a depth as whole blocks.

    >>> by_depth(SOURCES, 30, 0), by_depth(BLOCKS, 30, 1)
    ((4, 8, 10, 12, 16), (4, 8, 12))
    """
    return tuple(sorted({max(least, round(share * layers)) for share in shares}))


def check(config: AtlasConfig) -> None:
    """Raise ValueError for settings that cannot work on any model; needs no model."""
    check_settings(config, LEAST)
    _ = where(config.where)
    if not config.norms or min(config.norms) <= 0 or list(config.norms) != sorted(set(config.norms)):
        raise ValueError(
            f"got norms {list(config.norms)}; expected positive multiples of the stream's norm, each once, smallest "
            "first; correct --norms"
        )
    if config.sinks not in ("include", "exclude"):
        raise ValueError(f"got sinks {config.sinks!r}; expected exclude or include; correct --sinks")


def check_on(config: AtlasConfig, subject: Subject) -> None:
    """Raise ValueError for settings that cannot work on this model."""
    width = int(subject.model.cfg.d_model)
    for name in ("candidates", "values"):
        if getattr(config, name) > width:
            raise ValueError(f"got {name}={getattr(config, name)}; expected at most {width}, d_model; lower --{name}")
    names = ("auto", *subject.modes.behaviours)
    if config.behaviour not in names:
        raise ValueError(
            f"got behaviour {config.behaviour!r}; expected {', '.join(names)}; correct --behaviour, or write a rule "
            "for it into modes.json"
        )
