"""Every public name is in the API reference, once, and next to an example."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mb_broker
import mb_client
import mb_core
import mb_sync
import mb_testing
import mb_testing.proxy

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {path: path.read_text() for path in sorted(DOCS.glob("api*.md"))}
DIRECTIVE = re.compile(r"^\.\. (?:auto|py:)\w+:: ([\w.]+)\.(\w+)", re.MULTILINE)
PACKAGES = [mb_client, mb_core, mb_broker, mb_sync, mb_testing, mb_testing.proxy]


def documented(text: str) -> list[tuple[str, Any]]:
    """The names that a page documents, and what they stand for."""
    return [
        (f"{module}.{name}", getattr(importlib.import_module(module), name))
        for module, name in DIRECTIVE.findall(text)
    ]


def code(text: str) -> str:
    """The Python examples of a page or a section."""
    return "\n".join(re.findall(r"^```python.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def section(page: str, anchor: str) -> str:
    """The section under the heading with this anchor; the whole page without one."""
    if not anchor:
        return page
    for part in re.split(r"^(?=#+ )", page, flags=re.MULTILINE):
        heading = part.partition("\n")[0].lstrip("# ").lower()
        if re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") == anchor:
            return part
    raise AssertionError(f"no heading has the anchor #{anchor}")


def linked_examples(page: str, name: str) -> str:
    """The examples to which the row of `name` in a page's table links."""
    rows = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
    links = [link for row in rows for link in re.findall(r"\]\(([\w.-]*)#?([\w-]*)\)", row)]
    return "".join(
        code(section((DOCS / target).read_text() if target else page, anchor))
        for target, anchor in links
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference(package: ModuleType) -> None:
    found = [value for text in PAGES.values() for _, value in documented(text)]
    missing = [
        name
        for name in package.__all__
        if not any(getattr(package, name) is value for value in found)
    ]
    assert missing == []


def test_every_name_is_documented_once() -> None:
    names = Counter(name for text in PAGES.values() for name, _ in documented(text))
    assert {name for name, count in names.items() if count > 1} == set()


@pytest.mark.parametrize("name", mb_client.__all__)
def test_every_name_of_mb_client_has_an_example(name: str) -> None:
    value = getattr(mb_client, name)
    [page] = [text for text in PAGES.values() if any(each is value for _, each in documented(text))]
    assert re.search(rf"\b{name}\b", code(page)) or linked_examples(page, name)
