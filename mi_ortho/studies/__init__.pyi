from . import atlas, dct, explore, family, geometry, nulls, overview, presence, refusal, shared

__all__ = ["atlas", "dct", "explore", "family", "geometry", "nulls", "overview", "presence", "refusal", "shared"]
