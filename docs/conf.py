"""How the documentation is built: `make docs`."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import gradients  # noqa: E402
import landing  # noqa: E402
import noisylabels  # noqa: E402

project = "noisylabels"
author = copyright = "The noisylabels authors"
release = noisylabels.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "generated",
    "mathml",
    "terminal",
]
exclude_patterns = [
    "_build",
    # Included elsewhere.
    "results/hosts-*.md",
    "results/decay.md",
    "results/photos.md",
    "results/reasons.md",
    "results/short.md",
    "results/sklearn.md",
    "results/tuning.md",
    "results/paper/*.md",
]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# No dashes, which would change the options of commands.
smartquotes_action = "qe"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_custom_sections = [("Shape", "params_style")]

html_theme = "furo"
html_title = f"noisylabels {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

copybutton_selector = "div.highlight pre:not(.cell_output pre)"
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"


def sources() -> str:
    """Return a digest of the package and the terminal, on which depends what a tutorial prints."""
    digest = hashlib.sha256()
    package = Path(noisylabels.__file__).parent
    for file in (*sorted(package.rglob("*.py")), HERE / "terminal.py"):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


# A tutorial runs again when it, the package or the way in which it is run has changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "cache" / sources())
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
os.environ.update(
    # What is printed is the same with and without a network, on any machine.
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    # Of a bar that notebooks would have.
    PYTHONWARNINGS="ignore:IProgress not found",
    COLUMNS="80",
)
# Pages with widgets would load their scripts from the network.
nb_ipywidgets_js = {}
for outdated in (HERE / "_build" / "cache").glob("*"):
    if str(outdated) != nb_execution_cache_path:
        shutil.rmtree(outdated)

gradients.draw_all(HERE / "losses" / "plots")
landing.draw_all(HERE / "pictures")


def _unlink(app: Sphinx, doctree: nodes.document) -> None:
    """Take the link from the word "shape" where a type is said in prose."""
    for reference in list(doctree.findall(addnodes.pending_xref)):
        if reference["reftarget"] == "shape":
            reference.replace_self(reference.children)


def setup(app: Sphinx) -> None:
    """Connect what Sphinx has no option for."""
    app.connect("doctree-read", _unlink)
