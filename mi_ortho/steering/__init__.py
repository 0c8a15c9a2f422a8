"""Steering vectors measured on a model, kept as files, and exported for other programs."""

import lazy_loader

# names are listed in __init__.pyi and imported at first use: reading a file of vectors loads no model
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
