"""Finding plugins, and what they register.

A plugin that fails is reported to those who need it, and to nobody else; it does not keep the
others from working.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, cast

import pluggy

from ..codec import Codec
from ..errors import PluginError
from ..frontend import Frontend
from ..hookspecs import PROJECT, MBSpec
from ..transport import Transport
from .kinds import CODECS, FRONTENDS, KINDS, OBSERVERS, TRANSPORTS, Kind
from .loading import load, owner_of

__all__ = ["InstalledPlugin", "Observer", "Plugins", "installed_plugins"]

_log = logging.getLogger("mb_core.plugins")

_HOOKS = [name for name in vars(MBSpec) if name.startswith("mb_")]
_OBSERVING = [name for name in _HOOKS if name not in {kind.hook for kind in KINDS}]


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """What an entry point promises: `kind` is "transport", "front end", "codec" or "observer".

    `name` is what it is asked for by; `distribution` is installed, in this `version`.
    """

    kind: str
    name: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True)
class Observer:
    """A plugin that observes, and its hooks by their names."""

    name: str
    hooks: Mapping[str, Callable[..., Any]]


class Plugins:
    """A set of plugins, and what they register.

    Those of `entry_points` are imported when something of theirs is first asked for.  Used from
    any thread.
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] = ()) -> None:
        # What can't be used, by the plugin's name.
        self.failures: dict[str, Exception] = {}
        entry_points = list(entry_points)
        self._declared = {
            kind: [entry for entry in entry_points if entry.group == kind.group] for kind in KINDS
        }
        self._observers = [entry for entry in entry_points if entry.group == OBSERVERS]
        self.installed = sorted(map(_installed, entry_points), key=_order)
        # What was registered, with its plugin's name.
        self._given: dict[Kind, list[tuple[str, str, Any]]] = {kind: [] for kind in KINDS}
        self._found: dict[tuple[Kind, str], Any] = {}
        self._loaded: dict[tuple[str, str], str | PluginError] = {}
        self._observing: list[str] = []
        self._lock = threading.RLock()
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(MBSpec)

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin: as a whole, or not at all.

        Raises PluginError, which names it, when it can't be used.
        """
        with self._lock:
            if self._manager.has_plugin(name):
                raise PluginError(f"a plugin named {name} is registered already")
            try:
                self._add(plugin, name)
                given = {kind: kind.of(self._ask(kind, name)) for kind in KINDS}
            except Exception as error:
                self._forget(name)
                raise self._unusable(name, error) from error
            self._found.clear()  # there may be two of a name now
            for kind, values in given.items():
                self._given[kind] += [(key, name, value) for key, value in values.items()]
            self._observing.append(name)

    def transport(self, scheme: str) -> Transport:
        """The transport of a URL scheme; raises PluginError that says what to install."""
        return cast("Transport", self._find(TRANSPORTS, scheme))

    def frontend(self, name: str) -> Frontend:
        """The front end of this name; raises PluginError that says what to install."""
        return cast("Frontend", self._find(FRONTENDS, name))

    def codec(self, name: str) -> Codec:
        """The codec of this name; raises PluginError that says what there is."""
        return cast("Codec", self._find(CODECS, name))

    def schemes(self) -> list[str]:
        """The URL schemes that are spoken, sorted; whether they can be used is seen later."""
        return self._names(TRANSPORTS)

    def observers(self) -> list[Observer]:
        """The plugins that observe; those that can't be used are told of in the log, once."""
        with self._lock:
            while self._observers:
                entry = self._observers.pop(0)
                try:
                    name = self._load(entry)
                    if not self._hooks(name):
                        text = f"it implements none of {', '.join(_OBSERVING)}"
                        raise self._unusable(name, PluginError(text))
                except PluginError as error:
                    _log.error("%s", error, exc_info=error.__cause__)
                else:
                    self._observing.append(name)
            hooks = {name: self._hooks(name) for name in dict.fromkeys(self._observing)}
            return [Observer(name, found) for name, found in hooks.items() if found]

    # Finding

    def _names(self, kind: Kind) -> list[str]:
        declared = {entry.name for entry in self._declared[kind]}
        return sorted(declared | {name for name, _, _ in self._given[kind]})

    def _find(self, kind: Kind, name: str) -> Any:
        with self._lock:
            if (kind, name) not in self._found:
                self._found[kind, name] = self._look_for(kind, name)
            return self._found[kind, name]

    def _look_for(self, kind: Kind, name: str) -> Any:
        declared = [entry for entry in self._declared[kind] if entry.name == name]
        given = [(owner, value) for key, owner, value in self._given[kind] if key == name]
        owners = [*map(owner_of, declared), *(owner for owner, _ in given)]
        title = kind.title(name)
        if len(owners) > 1:
            raise PluginError(
                f"{title} is registered by {' and '.join(owners)}: uninstall all but one"
            )
        if given:
            return given[0][1]
        if not declared:
            raise self._missing(kind, name)
        owner = owners[0]
        try:
            plugin = self._load(declared[0])
            values = kind.of(self._ask(kind, plugin))
        except Exception as error:
            fault = error if isinstance(error, PluginError) else self._unusable(owner, error)
            raise PluginError(f"{title} can't be used: {fault}") from error
        if name not in values:
            there = ", ".join(map(kind.title, values)) or "nothing of the kind"
            raise self._unusable(owner, PluginError(f"it promises {title} and gives {there}"))
        return values[name]

    def _missing(self, kind: Kind, name: str) -> PluginError:
        title = kind.title(name)
        package = kind.packages.get(name)
        if package in self.failures:
            return PluginError(
                f"{title} needs the package {package}, which is installed and can't be used: "
                f"{self.failures[package]}"
            )
        if package is not None:
            return PluginError(f"{title} needs the package {package}: pip install {package}")
        known = ", ".join(map(kind.title, self._names(kind))) or "none"
        broken = "".join(f"; {owner} can't be used: {why}" for owner, why in self.failures.items())
        verb = "speaks" if kind is TRANSPORTS else "has"
        return PluginError(f"no installed plugin {verb} {title} (installed: {known}{broken})")

    # Adding

    def _load(self, entry: metadata.EntryPoint) -> str:
        """The plugin's name, when it is imported and registered; raises PluginError."""
        key = (owner_of(entry), entry.value)
        if key not in self._loaded:
            name = key[0] if not self._manager.has_plugin(key[0]) else f"{key[0]} ({entry.value})"
            try:
                self._add(load(entry), name)
            except Exception as error:
                self._forget(name)
                fault = self._unusable(name, error)
                fault.__cause__ = error.__cause__ if isinstance(error, PluginError) else error
                self._loaded[key] = fault
            else:
                self._loaded[key] = name
        found = self._loaded[key]
        if isinstance(found, PluginError):
            raise found
        return found

    def _add(self, plugin: object, name: str) -> None:
        """Register with pluggy; raises where a hook is not what the specification says."""
        for hook in _HOOKS:
            function = getattr(plugin, hook, None)
            if function is None:
                continue
            if not hasattr(function, f"{PROJECT}_impl"):
                raise PluginError(f"{hook} is not marked with @mb_core.hookimpl")
            if inspect.iscoroutinefunction(function):
                raise PluginError(f"{hook} is a coroutine function: hooks are plain functions")
            options = getattr(function, f"{PROJECT}_impl")
            if options["wrapper"] or options["hookwrapper"]:
                raise PluginError(f"{hook} is a wrapper: here it has nothing to wrap")
        self._manager.register(plugin, name)
        self._manager.check_pending()

    def _unusable(self, name: str, error: Exception) -> PluginError:
        """The error of a plugin, or of a part of it, that can't be used."""
        self.failures[name] = error
        text = " ".join(str(error).split()) or type(error).__name__
        return PluginError(f"the plugin {name} can't be used: {text}")

    def _forget(self, name: str) -> None:
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _ask(self, kind: Kind, name: str) -> object:
        """Call the plugin's hook; what it gives, or nothing where it has none."""
        call = self._hook(kind.hook, name)
        return call() if call is not None else []

    def _hooks(self, name: str) -> dict[str, Callable[..., Any]]:
        calls = {hook: self._hook(hook, name) for hook in _OBSERVING}
        return {hook: call for hook, call in calls.items() if call is not None}

    def _hook(self, hook: str, name: str) -> Callable[..., Any] | None:
        """One plugin's implementation of a hook; each is called by itself and harms no other."""
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            if impl.plugin_name == name:
                return _caller(impl)
        return None


def _caller(impl: pluggy.HookImpl) -> Callable[..., Any]:
    """The function of a hook, called with those of the arguments that it takes."""
    function, names = impl.function, impl.argnames

    def call(**arguments: Any) -> Any:
        return function(*[arguments[name] for name in names])

    return call


@functools.cache
def installed_plugins() -> Plugins:
    """The plugins of all installed distributions; their entry points are read at the first call."""
    return Plugins(_entry_points())


_NOUNS = {**{kind.group: kind.noun for kind in KINDS}, OBSERVERS: "observer"}


def _order(plugin: InstalledPlugin) -> tuple[int, str, str]:
    return [*_NOUNS.values()].index(plugin.kind), plugin.name, plugin.distribution


def _installed(entry: metadata.EntryPoint) -> InstalledPlugin:
    version = entry.dist.version if entry.dist is not None else ""
    return InstalledPlugin(_NOUNS[entry.group], entry.name, owner_of(entry), version)


def _entry_points() -> list[metadata.EntryPoint]:
    found = metadata.entry_points()  # all: looking for one group reads the files of all as well
    return [entry for group in _NOUNS for entry in found.select(group=group)]
