"""The command `nulls`: what of a finished family would a linear map, a quadratic form or chance also give?"""

import lazy_loader

# names are listed in __init__.pyi and imported at first use: settings load without torch
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
