"""A directive that puts what a function returns into a page, so that no number is typed twice."""

from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """``{generated} module:function``: the Markdown that the function returns."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of what the function returns."""
        module, _, function = self.arguments[0].partition(":")
        made = import_module(module)
        self.env.note_dependency(str(made.__file__))
        return self.parse_text_to_nodes(getattr(made, function)(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive known."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
