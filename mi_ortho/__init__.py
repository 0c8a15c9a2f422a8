"""Why can one behaviour of a language model have hundreds of mutually orthogonal steering vectors?

`mi_ortho` finds such families on any model TransformerLens loads, measures every vector beside its controls, and
compares them with what simpler explanations predict. Everything is built on one frozen function
z: steering vector -> activations (see `slice_model`), so every algorithm also runs on closed-form maps.
"""

import lazy_loader
from jaxtyping import install_import_hook

import mi_ortho.typecheck  # noqa: F401 (the checker itself cannot be checked by its own hook)

install_import_hook("mi_ortho", "mi_ortho.typecheck.check")
# names are listed in __init__.pyi and imported at first use: `mi-ortho --help` must not wait for torch
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
