"""From docstrings to the reference: short signatures, links between names and to pages."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from reference_links import PACKAGES
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_PAGE = re.compile(r"`?\bdocs/([\w-]+)\.md\b`?")
_EXAMPLE = re.compile(r"Examples?:")
# What explains an indented block below it: `::`, a list, a directive, a section such as `Args:`.
_EXPLAINED = re.compile(
    r"::$|^[-*] |^\d+\. |^\.\. |^(Args|Returns|Raises|Yields|Attributes|Note|Warning):$"
)
# An alias in a union, as autodoc writes it.
_ALIAS = re.compile(r"TypeAliasForwardRef\('([\w.]+)'\)")
_LONG_TYPE = re.compile(r"^collections\.abc\.")
_CONSTANT = re.compile(r"(?<==)[A-Z][A-Z_]{3,}\b|(?<== )[A-Z][A-Z_]{3,}\b")


def setup(app: Sphinx) -> dict[str, bool]:
    _import_types()
    # Before napoleon's own, which has priority 500.
    app.connect("autodoc-process-docstring", _prepare, priority=400)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-read", _polish)
    return {"parallel_read_safe": True}


def _import_types() -> None:
    """Import what our modules import for type checkers only: annotations mention it."""
    for package in PACKAGES:
        importlib.import_module(package)
    for name, module in list(sys.modules.items()):
        if not name.startswith("mb_") or module.__file__ is None:
            continue
        # Of an overloaded method, show the one signature that covers all of them.
        analyzer = ModuleAnalyzer.for_module(name)
        analyzer.analyze()
        analyzer.overloads.clear()
        for each in vars(module).values():
            if isinstance(each, type) and each.__module__ == name:
                _order_inherited(each, analyzer)
        for node in ast.parse(Path(module.__file__).read_text()).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                code = compile(ast.Module(node.body, []), module.__file__, "exec")
                exec(code, vars(module))


def _order_inherited(owner: type, analyzer: ModuleAnalyzer) -> None:
    """Put what a class inherits behind its own members, in the order of the source, too."""
    for base in owner.__mro__[1:]:
        if base.__module__.startswith("mb_"):
            source = ModuleAnalyzer.for_module(base.__module__)
            source.analyze()
            names = sorted(
                vars(base), key=lambda name: source.tagorder.get(f"{base.__name__}.{name}", 0)
            )
            for name in names:
                analyzer.tagorder.setdefault(
                    f"{owner.__name__}.{name}", len(analyzer.tagorder) + 10_000
                )


def _prepare(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Mark examples as code, and turn paths of pages into links."""
    lines[:] = _marked([_PAGE.sub(r":doc:`\1`", line) for line in lines])
    if what in ("attribute", "data", "property"):
        # napoleon takes what precedes a colon in the first line of these for their type.
        ours = GoogleDocstring(lines, app.config, app, "method", name, obj, options)
        lines[:] = ["..", "", *ours.lines()]  # a comment


def _marked(lines: list[str]) -> list[str]:
    """Put a directive before each indented block that no directive or section explains."""
    marked: list[str] = []
    above = "::"  # the last line that is not indented
    for number, line in enumerate(lines):
        if not line.startswith(" "):
            if not _EXAMPLE.fullmatch(line):
                marked.append(line)
            above = line or above
            continue
        starts = _EXAMPLE.fullmatch(above) or not lines[number - 1].strip()
        if starts and line.startswith("    ") and not _EXPLAINED.search(above):
            marked += ["", ".. code-block:: python", ""]
            above = "::"
        marked.append(line)
    return marked


def _shorten(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None] | None:
    """Show values in place of constants, and aliases by their names."""
    if signature is None:
        return None

    def value(found: re.Match[str]) -> str:
        module = importlib.import_module(obj.__module__)
        constant = getattr(module, found[0], None)
        if isinstance(constant, int):
            return f"{constant:_}"
        constant = getattr(constant, "name", constant)  # a codec's
        return repr(constant) if isinstance(constant, str) else found[0]

    signature = _ALIAS.sub(r"\1", signature)
    return _CONSTANT.sub(value, signature), returns


def _skip(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out the fields of Structs: the docstring of their class describes them."""
    return True if repr(obj) == "SLOTS_ATTR" else None  # Sphinx has no public name for it


def _polish(app: Sphinx, document: nodes.document) -> None:
    """Make the lists of parameters and attributes easier to read."""
    for text in list(document.findall(nodes.Text)):
        new = _LONG_TYPE.sub("", text)
        if text == " -- ":
            new = " \N{EN DASH} "
        elif text == "Variables" and isinstance(text.parent, nodes.field_name):
            new = "Attributes"
        if new != text:
            text.parent.replace(text, nodes.Text(new))
