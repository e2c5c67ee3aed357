"""Examining the installed plugins: whether each could be used."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ..errors import PluginError
from .installed import InstalledPlugin
from .registry import Conflict, Plugins

__all__ = ["Examined", "PluginState", "examine"]


class PluginState(StrEnum):
    """Whether a plugin could be used when it was tried."""

    OK = "ok"
    BROKEN = "broken"
    CONFLICT = "conflict"


class Examined(msgspec.Struct, frozen=True):
    """An installed plugin, its state, and why it can't be used, or None if it can."""

    plugin: InstalledPlugin
    state: PluginState
    error: str | None


def examine(plugins: Plugins) -> list[Examined]:
    """Import every plugin and call its hooks, one after the other."""
    return [_examine_one(plugins, plugin) for plugin in plugins.installed]


def _examine_one(plugins: Plugins, plugin: InstalledPlugin) -> Examined:
    try:
        plugins.check(plugin)
    except PluginError as error:
        state = PluginState.CONFLICT if isinstance(error, Conflict) else PluginState.BROKEN
        return Examined(plugin, state, str(error))
    return Examined(plugin, PluginState.OK, None)
