"""Finding plugins, and what they register.

A plugin that fails is reported to those who need it, and to nobody else; it does not keep the
others from working.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import metadata
from typing import Any, cast

import msgspec
import pluggy

from ..codec import Codec
from ..errors import PluginError
from ..frontend import Frontend
from ..hookspecs import PROJECT, MBSpec
from ..transport import Transport
from .implementations import HOOKS, check_hooks, implementation
from .installed import GROUPS, InstalledPlugin, by_kind, owner_of, promise_of
from .kinds import CODECS, FRONTENDS, KINDS, OBSERVERS, TRANSPORTS, Kind

__all__ = ["FAULTS", "Conflict", "Observer", "Plugins", "found_plugins", "installed_plugins"]

_log = logging.getLogger("mb_core.plugins")

FAULTS = (Exception, SystemExit)
"""What the code of a plugin may raise; KeyboardInterrupt is the user's."""

_OBSERVING = [name for name in HOOKS if name not in {kind.hook for kind in KINDS}]
_HOOKS_TO_OBSERVE = ", ".join(_OBSERVING)


class Conflict(PluginError):
    """Two plugins give what only one can."""


class Observer(msgspec.Struct, frozen=True):
    """A plugin that observes, and its hooks by their names."""

    name: str
    hooks: Mapping[str, Callable[..., Any]]


class Plugins:
    """A set of plugins, and what they register.

    Those of `entry_points` are imported once, when something of theirs is first asked for.  Only
    the thread that asks waits for the import.  Used from any thread.
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] = ()) -> None:
        # What can't be used, by the plugin's name.
        self.failures: dict[str, Exception | SystemExit] = {}
        self._declared: dict[str, list[metadata.EntryPoint]] = {group: [] for group in GROUPS}
        for entry in entry_points:
            self._declared[entry.group].append(entry)
        # By the id of an entry point: finding the name takes reading a file, which clients that
        # connect again should not have to.
        self._owners: dict[int, str] = {}
        # What was registered by hand, with its plugin's name.
        self._given: dict[Kind, list[tuple[str, str, Any]]] = {kind: [] for kind in KINDS}
        self._registered: list[str] = []
        # By the distribution and what its entry point names: what importing it raised, or the
        # name under which it is registered.
        self._import_errors: dict[tuple[str, str], Exception | SystemExit] = {}
        self._loaded: dict[tuple[str, str], str] = {}
        # What the loaded have given, by kind and plugin.
        self._values: dict[tuple[Kind, str], dict[str, Any]] = {}
        self._told: set[str] = set()
        # Never held while a plugin's own code runs.
        self._lock = threading.RLock()
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(MBSpec)

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin: as a whole, or not at all.

        It also observes the clients that connect from now on, if it has hooks for that.  Raises
        PluginError, which names it, when it can't be used.
        """
        with self._lock:
            if self._manager.has_plugin(name):
                raise PluginError(f"a plugin named {name} is registered already")
            try:
                self._add(plugin, name)
            except FAULTS as error:
                raise self._unusable(name, error) from error
        try:
            given = {kind: kind.of(self._ask(kind, name)) for kind in KINDS}
        except FAULTS as error:
            self._forget(name)
            raise self._unusable(name, error) from error
        with self._lock:
            for kind, values in given.items():
                self._given[kind] += [(key, name, value) for key, value in values.items()]
            self._registered.append(name)

    @property
    def installed(self) -> list[InstalledPlugin]:
        """What all plugins promise, by kind and name; whether they keep it is seen later."""
        promised = [promise_of(entry) for entries in self._declared.values() for entry in entries]
        promised += [
            InstalledPlugin(kind.noun, name, owner, "")
            for kind, given in self._given.items()
            for name, owner, _ in given
        ]
        promised += [
            InstalledPlugin("observer", name, name, "")
            for name in self._registered
            if self._hooks(name)
        ]
        return by_kind(promised)

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
        """The plugins that observe; those that can't be used are logged, once."""
        names = list(self._registered)
        for entry in self._declared[OBSERVERS]:
            try:
                names.append(self._load_observer(entry))
            except PluginError as error:
                if str(error) not in self._told:
                    self._told.add(str(error))
                    _log.error("%s", error, exc_info=error.__cause__)
        hooks = {name: self._hooks(name) for name in dict.fromkeys(names)}
        return [Observer(name, found) for name, found in hooks.items() if found]

    def load(self, schemes: Collection[str]) -> None:
        """Import the observers and what `schemes` need; what fails raises when it is asked for."""
        self.observers()
        for scheme in schemes:
            with contextlib.suppress(PluginError):
                self.transport(scheme)

    def loaded(self, schemes: Collection[str]) -> bool:
        """Whether nothing of that is left to be imported."""
        entries = [entry for entry in self._declared[TRANSPORTS.group] if entry.name in schemes]
        keys = {
            (self._owner_of(entry), entry.value) for entry in [*entries, *self._declared[OBSERVERS]]
        }
        return keys <= self._loaded.keys() | self._import_errors.keys()

    def check(self, plugin: InstalledPlugin) -> None:
        """See whether an installed plugin keeps what it promises; raises PluginError if not."""
        for kind in KINDS:
            if kind.noun == plugin.kind:
                self._find(kind, plugin.name)
                return
        for entry in self._declared[OBSERVERS]:
            if (entry.name, self._owner_of(entry)) == (plugin.name, plugin.distribution):
                self._load_observer(entry)

    # Finding

    def _owner_of(self, entry: metadata.EntryPoint) -> str:
        owner = self._owners.get(id(entry))
        if owner is None:
            owner = self._owners[id(entry)] = owner_of(entry)
        return owner

    def _names(self, kind: Kind) -> list[str]:
        declared = {entry.name for entry in self._declared[kind.group]}
        return sorted(declared | {name for name, _, _ in self._given[kind]})

    def _find(self, kind: Kind, name: str) -> Any:
        declared = [entry for entry in self._declared[kind.group] if entry.name == name]
        given = [(owner, value) for key, owner, value in self._given[kind] if key == name]
        owners = [*map(self._owner_of, declared), *(owner for owner, _ in given)]
        title = kind.title(name)
        if len({*owners}) > 1:
            both = " and ".join(owners)
            raise Conflict(f"{title} is registered by {both}: uninstall all but one")
        if len(owners) > 1:
            raise Conflict(f"{title} is registered {len(owners)} times by {owners[0]}")
        if given:
            return given[0][1]
        if not declared:
            raise self._missing(kind, name)
        values = self._values_of(kind, declared[0], title)
        if name not in values:
            there = ", ".join(map(kind.title, values)) or "nothing of the kind"
            broken = PluginError(f"it promises {title} and gives {there}")
            raise self._unusable(owners[0], broken, title)
        return values[name]

    def _values_of(self, kind: Kind, entry: metadata.EntryPoint, title: str) -> dict[str, Any]:
        plugin = self._load(entry, title)
        found = self._values.get((kind, plugin))
        if found is None:
            try:
                found = kind.of(self._ask(kind, plugin))
            except FAULTS as error:
                raise self._unusable(self._owner_of(entry), error, title) from error
            # Other threads that asked meanwhile get the same: there is one memory://, for example.
            found = self._values.setdefault((kind, plugin), found)
        return found

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
        instead = kind.instead.get(name)
        hint = "" if instead is None else f"use {kind.title(instead)} instead; "
        return PluginError(f"no installed plugin {verb} {title} ({hint}installed: {known}{broken})")

    # Adding

    def _load(self, entry: metadata.EntryPoint, wanted: str | None = None) -> str:
        """Import and register a plugin, once, and return its name; raises PluginError."""
        key = owner, value = self._owner_of(entry), entry.value
        if key not in self._loaded:
            plugin = self._import(entry, wanted)
            try:
                with self._lock:
                    if key not in self._loaded:
                        name = f"{owner} ({value})" if self._manager.has_plugin(owner) else owner
                        self._add(plugin, name)
                        self._loaded[key] = name
            except FAULTS as error:
                raise self._unusable(owner, error, wanted) from error
        return self._loaded[key]

    def _import(self, entry: metadata.EntryPoint, wanted: str | None) -> object:
        """Import what an entry point names.

        An import that failed is not tried again, unless the system refused to read a file.
        """
        key = owner, value = self._owner_of(entry), entry.value
        if key not in self._import_errors:
            try:
                return entry.load()
            except FAULTS as error:
                cause = error
                if not isinstance(error, OSError):
                    self._import_errors[key] = error
        else:
            cause = self._import_errors[key]
        text = f"{value} can't be imported: {type(cause).__name__}: {cause}"
        raise self._unusable(owner, PluginError(text), wanted) from cause

    def _load_observer(self, entry: metadata.EntryPoint) -> str:
        name = self._load(entry)
        if not self._hooks(name):
            broken = PluginError(f"it implements none of {_HOOKS_TO_OBSERVE}")
            raise self._unusable(self._owner_of(entry), broken)
        return name

    def _add(self, plugin: object, name: str) -> None:
        """Register with pluggy; raises where a hook is not what the specification says."""
        check_hooks(plugin)
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except BaseException:
            self._forget(name)
            raise

    def _unusable(
        self, name: str, error: Exception | SystemExit, wanted: str | None = None
    ) -> PluginError:
        """The error of a plugin that can't be used, for a caller that needs something of it."""
        self.failures[name] = error
        why = " ".join(str(error).split()) or type(error).__name__
        if wanted is None:
            return PluginError(f"the plugin {name} can't be used: {why}")
        return PluginError(f"{wanted} needs the plugin {name}, which can't be used: {why}")

    def _forget(self, name: str) -> None:
        with self._lock:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)

    def _ask(self, kind: Kind, name: str) -> object:
        """Call the plugin's hook; what it gives, or nothing where it has none."""
        call = implementation(self._manager, kind.hook, name)
        return call() if call is not None else []

    def _hooks(self, name: str) -> dict[str, Callable[..., Any]]:
        calls = {hook: implementation(self._manager, hook, name) for hook in _OBSERVING}
        return {hook: call for hook, call in calls.items() if call is not None}


def installed_plugins() -> Plugins:
    """Return the plugins of all installed distributions.

    Their entry points are read at the first call, which reads files: some milliseconds for each
    hundred distributions.  Every caller gets the same Plugins, from whichever thread.
    """
    found = _found.get(_INSTALLED)
    if found is None:
        # Several threads may read at once; all of them get what the first one has found.  A lock
        # would be in the wrong hands after a fork.
        found = _found.setdefault(_INSTALLED, Plugins(_entry_points()))
    return found


def found_plugins() -> Plugins | None:
    """Return what `installed_plugins` returns, or None where nobody has asked for that yet."""
    return _found.get(_INSTALLED)


_INSTALLED = "installed"
_found: dict[str, Plugins] = {}


def _entry_points() -> list[metadata.EntryPoint]:
    found = metadata.entry_points()  # all: looking for one group reads the files of all as well
    return [entry for group in GROUPS for entry in found.select(group=group)]
