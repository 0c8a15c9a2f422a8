"""Sphinx configuration. `make docs` builds the pages; `make docs TUTORIALS=off` leaves the tutorials' outputs out."""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # pages are built without a network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the matrices of the tutorials are too small to share
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # it would stand in every tutorial

project = "mi_ortho"
author = "the authors of mi_ortho"
release = installed("mi-ortho")
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "sphinx_local.reference"]
exclude_patterns = ["_build", "sphinx_local", "conf.py", "figures.py"]  # .py is a page only under tutorials

html_theme = "furo"
html_title = "mi_ortho"
html_static_path = ["static"]
html_css_files = ["docs.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# results appear once experiments have been run; only execution tells the language of a tutorial's cells
suppress_warnings = ["mystnb.unknown_mime_type", "myst-nb.lexer", "toc.empty_glob"]

# tutorials are scripts with `# %%` cells; they run at every build, in a folder of their own
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "off" if os.environ.get("TUTORIALS") == "off" else "force"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 72
python_display_short_literal_types = True
highlight_language = "none"  # a block without a language is text or a list of commands
default_role = "code"  # docstrings put names in single backticks
napoleon_use_rtype = False
napoleon_use_ivar = True
