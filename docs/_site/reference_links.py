"""Links from names in the text, such as `client.request`, to the reference."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.domains.python import ObjectEntry
    from sphinx.environment import BuildEnvironment

# The packages of which the reference has names; the first that has a name is linked to.
PACKAGES = (
    *("mb_client", "mb_core.hookspecs", "mb_core.link", "mb_core.hosted_client", "mb_core.session"),
    *("mb_core.wire", "mb_broker", "mb_broker.broker", "mb_testing", "mb_testing.proxy", "mb_sync"),
)
_BLOCKING = ("sync", "api-sync")  # pages whose MessageBrokerClient is that of mb_sync
# What examples call their objects.
_OBJECTS = {"client": "MessageBrokerClient", "message": "Message", "subscription": "Subscription"}
_NAME = re.compile(
    r"(?:(mb_\w+(?:\.[a-z_]+)*|client|message|subscription)\.)?([A-Za-z]\w*(?:\.[a-z]\w*)?)"
)
_MODULES = re.compile(r"^mb_\w+\.(?:[a-z_]+\.)*(?=\w)")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(_LinkNames)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True}


def find(env: BuildEnvironment, name: str, page: str) -> ObjectEntry | None:
    """Find a name where it is documented, whichever package it is imported from."""
    objects = env.domains.python_domain.objects
    packages = ("mb_sync", *PACKAGES) if page in _BLOCKING else PACKAGES
    found = [objects[f"{package}.{name}"] for package in packages if f"{package}.{name}" in objects]
    return found[0] if found else None


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.Element
) -> nodes.Node | None:
    """Resolve what docstrings refer to: several packages export the same names."""
    if node.get("refdomain") != "py":
        return None
    name = _MODULES.sub("", node["reftarget"].removesuffix("()"))
    page = node.get("refdoc", env.docname)
    entry = find(env, name, page)
    if entry is None:
        return None
    return make_refnode(app.builder, page, entry.docname, entry.node_id, content, name)


class _LinkNames(SphinxPostTransform):
    """Link the first mention of a name in each section of a Markdown page."""

    default_priority = 500

    def run(self, **kwargs: Any) -> None:
        seen: set[tuple[int, str]] = set()
        for literal in list(self.document.findall(nodes.literal)):
            entry = self._entry(literal)
            if entry is None:
                continue
            section = literal
            while section.parent is not None and not isinstance(section, nodes.section | nodes.row):
                section = section.parent
            if (id(section), entry.node_id) in seen:
                continue
            seen.add((id(section), entry.node_id))
            page = self.env.docname
            link = make_refnode(
                self.app.builder, page, entry.docname, entry.node_id, literal.copy()
            )
            link[0].extend(child.deepcopy() for child in literal.children)
            literal.replace_self(link)

    def _entry(self, literal: nodes.literal) -> ObjectEntry | None:
        above = literal.parent
        while above is not None:
            if isinstance(above, nodes.reference | nodes.title | nodes.caption):
                return None
            above = above.parent
        text = literal.astext().removesuffix("()")
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        prefix, name = match.groups()
        if prefix in _OBJECTS:
            name = f"{_OBJECTS[prefix]}.{name}"
        elif prefix is None and name[0].islower() and not self.env.docname.startswith("api"):
            return None  # such as `running` in the guide, which may be anything
        return find(self.env, name, self.env.docname)
