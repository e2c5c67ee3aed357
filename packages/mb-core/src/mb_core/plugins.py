"""Finding plugins, and what they register.

A plugin that fails is reported in the log and in the errors of those who need it; it does not
keep the others from working.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata

import pluggy

from .errors import PluginError
from .hookspecs import PROJECT, MBSpec
from .transport import Transport

__all__ = ["Plugins", "installed_plugins"]

_log = logging.getLogger("mb_core.plugins")

# Who has not installed a transport is told which package has it.
_PACKAGES: Mapping[str, str] = {
    "tcp": "mb-tcp",
    "tls": "mb-tcp",
    "ws": "mb-ws",
    "wss": "mb-ws",
    "memory": "mb-broker",
}


@dataclass(frozen=True, slots=True)
class _Registered:
    transport: Transport
    plugin: str


@dataclass(slots=True)
class Plugins:
    """A set of plugins, by name, and the transports that they registered."""

    failures: dict[str, Exception] = field(default_factory=dict)
    _by_scheme: dict[str, list[_Registered]] = field(default_factory=dict)
    _manager: pluggy.PluginManager = field(default_factory=lambda: _manager())

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin.  Raises PluginError, which names it, when it can't be used."""
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
            impl = self._manager.subset_hook_caller(
                "mb_register_transports",
                [other for other in self._manager.get_plugins() if other is not plugin],
            )
            registered = [_Registered(transport, name) for given in impl() for transport in given]
            for entry in registered:
                self._by_scheme.setdefault(entry.transport.scheme, []).append(entry)
        except Exception as error:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self.failures[name] = error
            raise PluginError(f"the plugin {name} can't be used: {error}") from error

    def transport(self, scheme: str) -> Transport:
        """The transport of a URL scheme; raises PluginError that says what to install."""
        found = self._by_scheme.get(scheme, [])
        if len(found) == 1:
            return found[0].transport
        if found:
            names = " and ".join(entry.plugin for entry in found)
            raise PluginError(f"{scheme}:// is registered by {names}: uninstall all but one")
        package = _PACKAGES.get(scheme)
        if package in self.failures:
            raise PluginError(
                f"{scheme}:// needs the package {package}, which is installed and can't be used: "
                f"{self.failures[package]}"
            )
        if package is not None:
            raise PluginError(f"{scheme}:// needs the package {package}: pip install {package}")
        known = ", ".join(f"{name}://" for name in self.schemes()) or "none"
        raise PluginError(f"no installed plugin speaks {scheme}:// (installed: {known})")

    def schemes(self) -> list[str]:
        """The URL schemes that are spoken, sorted."""
        return sorted(self._by_scheme)


@functools.cache
def installed_plugins() -> Plugins:
    """The plugins of all installed distributions; entry points are read at the first call."""
    plugins = Plugins()
    for entry_point in _entry_points():
        name = entry_point.dist.name if entry_point.dist is not None else entry_point.name
        try:
            plugins.register(entry_point.load(), name)
        except PluginError as error:
            _log.error("%s", error, exc_info=error.__cause__)
        except Exception as error:  # whatever a stranger's module raises while it is imported
            plugins.failures[name] = error
            _log.exception("the plugin %s can't be imported", name)
    return plugins


def _entry_points() -> Iterable[metadata.EntryPoint]:
    return metadata.entry_points(group=PROJECT)


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(MBSpec)
    return manager
