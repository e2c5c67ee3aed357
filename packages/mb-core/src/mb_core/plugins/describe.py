"""Describe installed plugins and whether they work; for `mb plugins`."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ..errors import PluginError
from .registry import Conflict, InstalledPlugin, Plugins

__all__ = ["PluginReport", "PluginState", "describe"]


class PluginState(StrEnum):
    """Whether a plugin could be used when it was tried."""

    OK = "ok"
    BROKEN = "broken"
    CONFLICT = "conflict"


class PluginReport(msgspec.Struct, frozen=True):
    """An installed plugin, its state, and why it can't be used; None if it can."""

    plugin: InstalledPlugin
    state: PluginState
    error: str | None


def describe(plugins: Plugins) -> list[PluginReport]:
    """Try every plugin, one after the other, and return the results."""
    reports: list[PluginReport] = []
    for plugin in plugins.installed:
        state, text = PluginState.OK, None
        try:
            plugins.check(plugin)
        except PluginError as error:
            conflict = isinstance(error, Conflict)
            state, text = PluginState.CONFLICT if conflict else PluginState.BROKEN, str(error)
        reports.append(PluginReport(plugin, state, text))
    return reports
