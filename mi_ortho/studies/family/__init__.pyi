from .config import FamilyConfig
from .finished import FamilyVectors, newest_family, open_family
from .verdicts import numbers

__all__ = ["FamilyConfig", "FamilyVectors", "newest_family", "numbers", "open_family"]
