from .config import GeometryConfig
from .survey import Effort, read_network, stages
from .verdicts import (
    SHARED,
    attention_adds_more,
    curves_rise,
    directions_shared,
    equal_moves,
    exponential_growth,
    one_space,
    space_is_flat,
    streams_separate,
    updates_aligned,
)

__all__ = [
    "Effort",
    "GeometryConfig",
    "SHARED",
    "attention_adds_more",
    "curves_rise",
    "directions_shared",
    "equal_moves",
    "exponential_growth",
    "one_space",
    "read_network",
    "space_is_flat",
    "stages",
    "streams_separate",
    "updates_aligned",
]
