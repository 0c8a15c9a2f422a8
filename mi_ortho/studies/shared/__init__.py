"""What studies share: the subject, positions as settings name them, progress, and the start of a command."""

import lazy_loader

# names are listed in __init__.pyi and imported at first use: settings load without torch
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
