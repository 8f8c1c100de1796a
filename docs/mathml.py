"""Formulas as MathML, made when the documentation is built: a page needs no script for them.

`math-core` refuses what it does not know, so that a misspelt formula fails the build.
"""

import re
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.writers.html5 import HTML5Translator

CONVERTER = LatexToMathML(fancy_error=False)


def convert(formula: str, *, display: bool = False) -> str:
    """Return the MathML element of a formula.

    Args:
        formula: TeX, without dollars.
        display: Whether it stands on a line of its own.

    Raises:
        SphinxError: The formula cannot be read.

    Example:
        >>> convert("p_y")
        '<math><msub><mi>p</mi><mi>y</mi></msub></math>'
    """
    try:
        element = CONVERTER.convert_with_local_state(formula, displaystyle=display)
    except LatexError as error:
        raise SphinxError(f"formula {formula!r}: {error}") from error
    # As an accent, a bar touches its letter in fonts without tables for mathematics.
    return element.replace('<mover accent="true">', "<mover>")


def _visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    formula = node.astext().strip()
    if not node.get("no-wrap", node.get("nowrap")) and re.search(r"\\\\|&", formula):
        formula = rf"\begin{{aligned}}{formula}\end{{aligned}}"
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(convert(formula, display=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Make this the way in which formulas are shown."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
