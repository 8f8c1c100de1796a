"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import gradients  # noqa: E402
import noisylabels  # noqa: E402

project = "noisylabels"
author = "The noisylabels authors"
release = noisylabels.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath", "amsmath"]
html_theme = "furo"
exclude_patterns = [
    "_build",
    # Included elsewhere.
    "results/hosts-*.md",
    "results/reasons.md",
    "results/paper/*.md",
]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_custom_sections = [("Shape", "params_style")]

gradients.draw_all(HERE / "losses" / "plots")
