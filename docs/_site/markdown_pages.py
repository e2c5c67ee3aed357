"""What Markdown pages need to read well on GitHub and in the site alike."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
# Files above docs/ that have a page in the site; other files are offered as downloads.
_PAGES = {
    "../README.md": "index.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security-policy.md",
    "../examples": "examples.md",
}
_INCLUDE = re.compile(r"^```{include} \.\./([\w./]+)\n```$", re.MULTILINE)
_RELATIVE = re.compile(r"(?<=\]\()(?!#|\w+:)[^)\s]+(?=\))")
_LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+?)/?(#[^)\s]*)?(?=\))")
_TITLED = re.compile(r'^(`{3,})([\w-]+) title="([^"]+)"$', re.MULTILINE)
# Languages of our own, and one that Pygments does not know.
_PLAIN = ("distributions", "haproxy", "layers")


def setup(app: Sphinx) -> dict[str, bool]:
    for language in _PLAIN:
        app.add_lexer(language, TextLexer)
    app.connect("source-read", _prepare)
    return {"parallel_read_safe": True}


def _prepare(app: Sphinx, name: str, source: list[str]) -> None:
    folder = Path(app.srcdir, name).parent

    def included(found: re.Match[str]) -> str:
        path = ROOT / found[1]
        app.env.note_dependency(str(path))
        # Its links are relative to its own folder.
        base = Path("..", found[1]).parent.as_posix()
        return _RELATIVE.sub(
            lambda link: normpath(f"{base}/{link[0]}").removeprefix("../docs/"), path.read_text()
        )

    def target(link: re.Match[str]) -> str:
        path, anchor = link[1], link[2] or ""
        if path in _PAGES:
            return _PAGES[path] + anchor
        if (folder / path).is_dir():
            return f"examples.md#{Path(path).name.lower()}"
        return path + anchor

    text = _INCLUDE.sub(included, source[0])
    # The title of a block is its caption.
    text = _TITLED.sub(r"\1{code-block} \2\n:caption: \3", text)
    source[0] = _LINK.sub(target, text)
