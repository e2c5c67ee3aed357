"""What plugins promise by their entry points, before any is imported."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

import msgspec

from .kinds import KINDS, OBSERVERS

__all__ = ["GROUPS", "NOUNS", "InstalledPlugin", "by_kind", "owner_of", "promise_of"]

NOUNS = {**{kind.group: kind.noun for kind in KINDS}, OBSERVERS: "observer"}
"""What a plugin is called whose entry point is in a group."""

GROUPS = tuple(NOUNS)
"""The groups of entry points that announce plugins."""


class InstalledPlugin(msgspec.Struct, frozen=True):
    """What a plugin promises: `kind` is "transport", "front end", "codec" or "observer".

    `name` is what it is asked for by; `distribution` is installed, in this `version`.  Of a
    plugin that was registered by hand, they are its name and an empty text.
    """

    kind: str
    name: str
    distribution: str
    version: str


def owner_of(entry_point: metadata.EntryPoint) -> str:
    """The name of a plugin: that of its distribution."""
    return entry_point.dist.name if entry_point.dist is not None else entry_point.name


def promise_of(entry: metadata.EntryPoint) -> InstalledPlugin:
    version = entry.dist.version if entry.dist is not None else ""
    return InstalledPlugin(NOUNS[entry.group], entry.name, owner_of(entry), version)


def by_kind(plugins: Iterable[InstalledPlugin]) -> list[InstalledPlugin]:
    """In the order in which they are shown."""
    kinds = [*NOUNS.values()]
    return sorted(plugins, key=lambda each: (kinds.index(each.kind), each.name, each.distribution))
