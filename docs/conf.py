"""Settings of the site that `make docs` builds from the pages in this folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parent.parent

project = "kruise-agents"
author = "the kruise-agents authors"
copyright = author
(version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "src/kruise_agents/__init__.py").read_text(), re.MULTILINE)
release = version

extensions = ["myst_parser", "sphinx_copybutton"]
# Pages link to headings by GitHub's anchors, of every level.
myst_heading_anchors = 6
# Options and code in a sentence keep their two hyphens and straight quotes.
smartquotes = False

# The copy button takes the commands of a record, without their prompt and output.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = f"{project} {version}"
html_short_title = project
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = [("scrolling.js", {"defer": "defer"})]
templates_path = ["_templates"]
html_use_index = False
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options: dict[str, Any] = {
    "source_repository": "https://github.com/openkruise/kruise-agents/",
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["edit"],
}


class RemoveComments(SphinxTransform):
    """Leave out HTML comments, which are for those who write the pages and for their tests."""

    default_priority = 500

    def apply(self, **_: Any) -> None:
        """Remove the comments of one page."""
        for node in list(self.document.findall(nodes.raw)):
            if re.fullmatch(r"(\s*<!--.*?-->)+\s*", node.astext(), re.DOTALL):
                node.parent.remove(node)


LONG_WORD = re.compile(r'(?<=<span class="pre">)[^<]{16,}')
BREAK = re.compile(r"(?<=[\w};)][-_/.=:,])(?=[A-Za-z_{&])|(?<=[a-z])(?=[A-Z])")


def add_breaks(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """Say where a long word of code may break; custom.css says when."""

    def broken(word: re.Match[str]) -> str:
        return BREAK.sub("<wbr>" if len(word[0]) < 30 else '<wbr class="far">', word[0])

    if "body" in context:
        context["body"] = LONG_WORD.sub(broken, context["body"])


def plain_captions(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """Take from the captions of the sidebar that they are headings: they come before the title and have no level."""
    context["furo_navigation_tree"] = context["furo_navigation_tree"].replace(' role="heading"', "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform and the changes to pages."""
    app.add_transform(RemoveComments)
    app.connect("html-page-context", add_breaks)
    app.connect("html-page-context", plain_captions, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
