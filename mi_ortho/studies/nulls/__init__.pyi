from .bench import Share, share

__all__ = ["Share", "share"]
