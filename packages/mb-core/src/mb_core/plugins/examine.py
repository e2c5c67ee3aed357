"""Looking at every installed plugin: whether it could be used."""

from __future__ import annotations

import threading
import time
from enum import StrEnum

import msgspec

from ..errors import PluginError
from .installed import InstalledPlugin
from .loading import StillLoading
from .registry import Conflict, Plugins

__all__ = ["Examined", "PluginState", "examine"]


class PluginState(StrEnum):
    """What has become of a plugin when it was tried."""

    OK = "ok"
    BROKEN = "broken"
    CONFLICT = "conflict"
    LOADING = "loading"
    """Its import, or its hook, has not come to an end in time."""


class Examined(msgspec.Struct, frozen=True):
    """An installed plugin, its state, and what is the matter where it can't be used."""

    plugin: InstalledPlugin
    state: PluginState
    error: str | None


def examine(plugins: Plugins) -> list[Examined]:
    """Import all plugins, side by side; it takes `plugins.load_limit` and a second at most."""
    trials = [_Trial(plugins, plugin) for plugin in plugins.installed]
    until = time.monotonic() + plugins.load_limit + 1  # an import's own limit is met before
    return [trial.result(until) for trial in trials]


class _Trial:
    """The check of one plugin, in a thread that is left alone where it does not end."""

    def __init__(self, plugins: Plugins, plugin: InstalledPlugin) -> None:
        self._plugins = plugins
        self._plugin = plugin
        self._state = PluginState.LOADING
        self._error: str | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"mb tries {plugin.name}", daemon=True
        )
        self._thread.start()

    def result(self, until: float) -> Examined:
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            text = f"the plugin {self._plugin.distribution} was imported, and its hook hangs"
            return Examined(self._plugin, PluginState.LOADING, text)
        return Examined(self._plugin, self._state, self._error)

    def _run(self) -> None:
        try:
            self._plugins.check(self._plugin)
        except PluginError as error:
            self._state, self._error = _state_of(error), str(error)
        else:
            self._state = PluginState.OK


def _state_of(error: PluginError) -> PluginState:
    if isinstance(error, Conflict):
        return PluginState.CONFLICT
    return PluginState.LOADING if isinstance(error, StillLoading) else PluginState.BROKEN
