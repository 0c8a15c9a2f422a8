"""The command `presence`: are a family's vectors in the activations of a model that really writes code?"""

import lazy_loader

# names are listed in __init__.pyi and imported at first use: settings load without torch
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
