"""Finding plugins, and what they register.

A plugin that fails is reported in the log and in the errors of those who need it; it does not
keep the others from working.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata

import pluggy

from .errors import PluginError
from .hookspecs import PROJECT, MBSpec
from .transport import Transport, WireTransport

__all__ = ["Plugins", "installed_plugins"]

_log = logging.getLogger("mb_core.plugins")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

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
        """Add a plugin: as a whole, or not at all.

        Raises PluginError, which names it, when it can't be used.
        """
        if self._manager.has_plugin(name):
            raise PluginError(f"a plugin named {name} is registered already")
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
            transports = self._transports_of(plugin)
        except Exception as error:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self.failures[name] = error
            raise PluginError(f"the plugin {name} can't be used: {error}") from error
        for transport in transports:
            self._by_scheme.setdefault(transport.scheme, []).append(_Registered(transport, name))

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
        broken = "".join(f"; {name} can't be used: {why}" for name, why in self.failures.items())
        raise PluginError(f"no installed plugin speaks {scheme}:// (installed: {known}{broken})")

    def schemes(self) -> list[str]:
        """The URL schemes that are spoken, sorted."""
        return sorted(self._by_scheme)

    def _transports_of(self, plugin: object) -> list[Transport]:
        """What the plugin registers; raises TypeError or ValueError for what is no transport."""
        transports: list[Transport] = []
        for impl in self._manager.hook.mb_register_transports.get_hookimpls():
            if impl.plugin is plugin:
                given = impl.function()
                if not isinstance(given, Iterable) or isinstance(given, str):
                    raise TypeError(
                        f"mb_register_transports gave {given!r}, not a list of transports"
                    )
                transports += given
        for transport in transports:
            _check_transport(transport)
        schemes = [transport.scheme for transport in transports]
        for scheme in schemes:
            if schemes.count(scheme) > 1:
                raise ValueError(f"it gives {scheme}:// twice")
        return transports


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


def _check_transport(transport: object) -> None:
    if not isinstance(transport, WireTransport):
        for name in ("connect", "listen"):
            if not callable(getattr(transport, name, None)):
                raise TypeError(f"mb_register_transports gave {transport!r}, which is no transport")
    scheme = getattr(transport, "scheme", None)
    if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
        raise ValueError(f"{scheme!r} is no URL scheme: letters in lower case, digits, + - .")


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(MBSpec)
    return manager
