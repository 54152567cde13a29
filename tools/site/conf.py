# SPDX-License-Identifier: MIT
"""How does docs become a site? Options of Sphinx, for `make site`; nothing is fetched.

Pages are Markdown (MyST). Sphinx warns of a link, an anchor or a page of the list that is not
there, and `make site` takes a warning for an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from vmipatch import __version__

DOCS: Final = Path(__file__).parents[2] / "docs"
OUTSIDE: Final = re.compile(r"\[([^]]+)\]\((?:\.\./)+([^)#]+)\)")
"""A link to a file of the sources, which are not on the site."""
DECISIONS: Final = "decisions/README"
"""A page that is read elsewhere too, where a list of pages would be shown as code."""

project = "vmipatch"
project_copyright = "the authors of vmipatch"
release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["schemas"]
html_theme = "furo"
html_title = f"vmipatch {__version__}"
smartquotes = False
"""Two hyphens begin an option."""
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
myst_heading_anchors = 3
"""Headings have anchors as on GitHub: docs are read there too."""
pygments_style = "friendly"
pygments_dark_style = "monokai"


def _with_sources(_: Any, page: str, source: list[str]) -> None:
    """Name files of the sources, where docs have a link to them; one that is not there stays."""

    def named(found: re.Match[str]) -> str:
        path = (DOCS.parent / found[2]).resolve()
        is_outside = path.exists() and not path.is_relative_to(DOCS)
        return f"{found[1]} (`{found[2]}` of the sources)" if is_outside else found[0]

    source[0] = OUTSIDE.sub(named, source[0])


def _with_pages(_: Any, page: str, source: list[str]) -> None:
    """Give the table of decisions a list of its pages, which the side of each page shows."""
    if page == DECISIONS:
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n[0-9]*\ntemplate\n```\n"


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx, with its application."""
    app.connect("source-read", _with_sources)
    app.connect("source-read", _with_pages)
    return {"parallel_read_safe": True}
