from .config import FamilyConfig
from .finished import FamilyVectors, newest_family, open_family

__all__ = ["FamilyConfig", "FamilyVectors", "newest_family", "open_family"]
