from .bench import Sets, prompt_sets
from .config import RefusalConfig

__all__ = ["RefusalConfig", "Sets", "prompt_sets"]
