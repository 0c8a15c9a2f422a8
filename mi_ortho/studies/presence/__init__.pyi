from .config import PresenceConfig
from .contrasts import CONTRASTS, PRIMARY, Contrast, contrast, measured_nulls, measured_set
from .library import library_pairs, library_prose
from .passages import Passage, real_passages, write_passages
from .requests import Request, requests
from .streams import Stream, read_streams

__all__ = [
    "CONTRASTS",
    "Contrast",
    "PRIMARY",
    "Passage",
    "PresenceConfig",
    "Request",
    "Stream",
    "contrast",
    "library_pairs",
    "library_prose",
    "measured_nulls",
    "measured_set",
    "read_streams",
    "real_passages",
    "requests",
    "write_passages",
]
