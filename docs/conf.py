"""How Sphinx builds the documentation; `nox -s docs` runs it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_site"))

project = "MB for Python"
author = "the authors of MB"
release = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["version"]
version = release
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "markdown_pages",
    "docstrings",
    "reference_links",
]
exclude_patterns = ["_build", "_site", "_static"]

# A reference that leads nowhere is a warning, and the build treats warnings as errors.
nitpicky = True
nitpick_ignore_regex = [
    # Single backticks in docstrings: anything that is not a public name is shown as code.
    ("py:obj", "(?s).*"),
    # Type variables, and types that are not for users, in the signatures of what few use.
    (
        "py:class",
        r"(.*\.)?(Ts?|_\w+|Counter|HeaderPrefix|Metric|Observer|Responder|TaskGroup|Waiter)",
    ),
    # Types of the standard library: its inventory would have to be downloaded.
    (
        "py:.*",
        r"(asyncio|collections|contextlib|enum|importlib|inspect|logging|msgspec|os|pluggy)\..*",
    ),
    ("py:.*", r"(pathlib|selectors|socket|ssl|threading|types|typing)\..*"),
]
default_role = "py:obj"

# Markdown: pages keep the links and anchors that GitHub understands.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
smartquotes = False  # options such as --url stay as they are

# The reference: what is public, in the order of the source.
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_typehints_format = "short"
autodoc_type_aliases = {
    "Accept": "mb_core.link.Accept",
    "WrapAccept": "mb_broker.broker.WrapAccept",
}
autodoc_preserve_defaults = True
autoclass_content = "class"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

# The site: no font, script or style from another host.
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_permalinks_icon = "#"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

linkcheck_timeout = 15
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)"]
