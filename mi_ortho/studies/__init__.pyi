from . import dct, explore, family, geometry, nulls, overview, presence, refusal, shared

__all__ = ["dct", "explore", "family", "geometry", "nulls", "overview", "presence", "refusal", "shared"]
