"""Finding plugins, importing them, and what they register.

A plugin is imported plainly, by the first caller that needs it. If it fails, the callers that ask
for it get an error with its distribution and the reason. Other plugins are not affected.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any, cast

import msgspec
import pluggy

from ..authenticators import Authenticator
from ..codec import Codec
from ..errors import PluginError
from ..hookspecs import PROJECT, MBSpec
from ..transport import Frontend, Transport
from .entry_points import EntryPoint, read_entry_points
from .kinds import (
    AUTHENTICATORS,
    CODECS,
    FRONTENDS,
    KINDS,
    NOUNS,
    OBSERVER_HOOKS,
    OBSERVERS,
    TRANSPORTS,
    Kind,
    check_hooks,
)

__all__ = ["FAULTS", "Conflict", "InstalledPlugin", "Observer", "Plugins", "installed_plugins"]

_log = logging.getLogger("mb_core.plugins")

FAULTS = (Exception, SystemExit)
"""What the code of a plugin may raise. KeyboardInterrupt is not included: it is for the user."""


class Conflict(PluginError):
    """Two plugins provide the same name."""


class InstalledPlugin(msgspec.Struct, frozen=True):
    """What a plugin announces, without importing it.

    Attributes:
        kind: `"transport"`, `"front end"`, `"codec"`, `"authenticator"` or `"observer"`.
        name: The name by which programs choose it; for a transport, its URL scheme.
        distribution: The distribution that contains it. For a plugin that was registered with
            `Plugins.register`, its name.
        version: The version of the distribution; empty for a plugin that was registered.
    """

    kind: str
    name: str
    distribution: str
    version: str


class Observer(msgspec.Struct, frozen=True):
    """An observing plugin, and its hooks by name."""

    name: str
    hooks: Mapping[str, Callable[..., Any]]


class Plugins:
    """A set of plugins. Can be used from any thread.

    Most programs don't need one: clients and brokers use `installed_plugins()` by default. Use your
    own to register a plugin without installing it.

    Example::

        plugins = Plugins(importlib.metadata.entry_points(group="mb.transports"))
        plugins.register(my_plugin, "my plugin")
        client = MessageBrokerClient("tcp://localhost:8081", plugins=plugins)

    Plugins are imported once, when something of theirs is first needed. Only the thread that needs
    it waits for the import.

    Args:
        entry_points: The plugins.

    Attributes:
        failures: Why plugins can't be used, by their names.
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] = ()) -> None:
        # Plugins that can't be used, by name.
        self.failures: dict[str, Exception | SystemExit] = {}
        self._offers: list[EntryPoint | _Registered] = [*map(EntryPoint, entry_points)]
        # By the distribution and what its entry point names: what importing it raised, or the
        # name under which it was added.
        self._import_errors: dict[tuple[str, str], Exception | SystemExit] = {}
        self._imported: dict[tuple[str, str], str] = {}
        # What the imported plugins registered, by kind and plugin.
        self._values: dict[tuple[Kind, str], dict[str, Any]] = {}
        self._logged: set[str] = set()
        # Never held while a plugin's code runs.
        self._lock = threading.RLock()
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(MBSpec)

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin, completely or not at all.

        If it has observer hooks, it observes the clients that connect from now on.

        Args:
            plugin: A module or an object whose functions are marked with `hookimpl`.
            name: A name for it in errors and lists.

        Raises:
            PluginError: The plugin can't be used, or one with this name is registered already.
        """
        with self._lock:
            if self._manager.has_plugin(name):
                raise PluginError(f"a plugin named {name} is already registered")
            try:
                self._add(plugin, name)
            except FAULTS as error:
                raise self._unusable(name, error) from error
        try:
            given = {kind: kind.by_name(self._call(kind.hook, name)) for kind in KINDS}
        except FAULTS as error:
            self._remove(name)
            raise self._unusable(name, error) from error
        offers = [
            _Registered(kind.group, key, name, value)
            for kind, values in given.items()
            for key, value in values.items()
        ]
        if self._observer_hooks(name):
            offers.append(_Registered(OBSERVERS, name, name, plugin))
        with self._lock:
            self._offers += offers

    @property
    def installed(self) -> list[InstalledPlugin]:
        """What all plugins announce, by kind and name. This imports none of them."""
        installed = [
            InstalledPlugin(NOUNS[each.group], each.name, each.owner, each.version)
            for each in self._offers
        ]
        order = [*NOUNS.values()]
        return sorted(installed, key=lambda p: (order.index(p.kind), p.name, p.distribution))

    def transport(self, scheme: str) -> Transport:
        """Return the transport of a URL scheme.

        Raises:
            PluginError: It is not installed, or can't be used. The error says what to install.
        """
        return cast("Transport", self._find(TRANSPORTS, scheme))

    def frontend(self, name: str) -> Frontend:
        """Return the front end with this name.

        Raises:
            PluginError: It is not installed, or can't be used. The error says what to install.
        """
        return cast("Frontend", self._find(FRONTENDS, name))

    def codec(self, name: str) -> Codec:
        """Return the codec with this name.

        Raises:
            PluginError: It is not installed, or can't be used. The error lists the installed ones.
        """
        return cast("Codec", self._find(CODECS, name))

    def authenticator(self, name: str) -> Authenticator:
        """Return the authenticator with this name.

        Raises:
            PluginError: It is not installed, or can't be used. The error lists the installed ones.
        """
        return cast("Authenticator", self._find(AUTHENTICATORS, name))

    def schemes(self) -> list[str]:
        """Return the URL schemes of all transports, sorted. This imports none of them."""
        return self._names(TRANSPORTS)

    def observers(self) -> list[Observer]:
        """Return the plugins that observe. Those that can't be used are logged, once."""
        names: list[str] = []
        for offer in self._of(OBSERVERS):
            try:
                names.append(self._observer(offer))
            except PluginError as error:
                if str(error) not in self._logged:
                    self._logged.add(str(error))
                    _log.error("%s", error, exc_info=error.__cause__)
        return [Observer(name, self._observer_hooks(name)) for name in dict.fromkeys(names)]

    def check(self, plugin: InstalledPlugin) -> None:
        """Check that an installed plugin provides what it announces.

        Raises:
            PluginError: It does not, or can't be used.
        """
        for kind in KINDS:
            if kind.noun == plugin.kind:
                self._find(kind, plugin.name)
                return
        for offer in self._of(OBSERVERS):
            if (offer.name, offer.owner) == (plugin.name, plugin.distribution):
                self._observer(offer)

    # Finding

    def _of(self, group: str) -> list[EntryPoint | _Registered]:
        return [offer for offer in self._offers if offer.group == group]

    def _names(self, kind: Kind) -> list[str]:
        return sorted({offer.name for offer in self._of(kind.group)})

    def _find(self, kind: Kind, name: str) -> Any:
        offers = [offer for offer in self._of(kind.group) if offer.name == name]
        owners = [offer.owner for offer in offers]
        title = kind.title(name)
        if len({*owners}) > 1:
            both = " and ".join(owners)
            raise Conflict(f"{title} is registered by {both}: uninstall all but one")
        if len(owners) > 1:
            raise Conflict(f"{title} is registered {len(owners)} times by {owners[0]}")
        if not offers:
            raise self._missing(kind, name)
        [offer] = offers
        if isinstance(offer, _Registered):
            return offer.value
        values = self._values_of(kind, offer, title)
        if name not in values:
            there = ", ".join(map(kind.title, values)) or "none"
            broken = PluginError(f"it promises {title} but registers {there}")
            raise self._unusable(owners[0], broken, title)
        return values[name]

    def _values_of(self, kind: Kind, offer: EntryPoint, title: str) -> dict[str, Any]:
        plugin = self._import(offer, title)
        found = self._values.get((kind, plugin))
        if found is None:
            try:
                found = kind.by_name(self._call(kind.hook, plugin))
            except FAULTS as error:
                raise self._unusable(offer.owner, error, title) from error
            # Other threads that asked in the meantime get the same: there is only one memory://,
            # for example.
            found = self._values.setdefault((kind, plugin), found)
        return found

    def _missing(self, kind: Kind, name: str) -> PluginError:
        title = kind.title(name)
        package = kind.packages.get(name)
        if package in self.failures:
            return PluginError(
                f"{title} needs the package {package}, which is installed but can't be used: "
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

    # Importing

    def _import(self, offer: EntryPoint, title: str | None = None) -> str:
        """Import and add a plugin, once; return the name under which it was added.

        Raises PluginError.  An import that failed is not tried again, unless the system refused to
        read a file.
        """
        key = owner, value = offer.owner, offer.value
        if key in self._imported:
            return self._imported[key]
        failure = self._import_errors.get(key)
        if failure is None:
            try:
                plugin = offer.load()
            except FAULTS as error:
                failure = error
                if not isinstance(error, OSError):
                    self._import_errors[key] = error
        if failure is not None:
            text = f"{value} can't be imported: {type(failure).__name__}: {failure}"
            raise self._unusable(owner, PluginError(text), title) from failure
        with self._lock:
            if key not in self._imported:
                name = f"{owner} ({value})" if self._manager.has_plugin(owner) else owner
                try:
                    self._add(plugin, name)
                except FAULTS as error:
                    raise self._unusable(owner, error, title) from error
                self._imported[key] = name
            return self._imported[key]

    def _observer(self, offer: EntryPoint | _Registered) -> str:
        """The name under which an observer was added; raises PluginError."""
        if isinstance(offer, _Registered):
            return offer.owner
        name = self._import(offer)
        if not self._observer_hooks(name):
            broken = PluginError(f"it implements none of {', '.join(OBSERVER_HOOKS)}")
            raise self._unusable(offer.owner, broken)
        return name

    def _add(self, plugin: object, name: str) -> None:
        """Register with pluggy; raises if a hook does not match the specification."""
        check_hooks(plugin)
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except BaseException:
            self._remove(name)
            raise

    def _remove(self, name: str) -> None:
        with self._lock:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)

    def _unusable(
        self, name: str, error: Exception | SystemExit, title: str | None = None
    ) -> PluginError:
        """Return the error for a plugin that can't be used; `title` is what was requested."""
        self.failures[name] = error
        why = " ".join(str(error).split()) or type(error).__name__
        if title is None:
            return PluginError(f"the plugin {name} can't be used: {why}")
        return PluginError(f"{title} needs the plugin {name}, which can't be used: {why}")

    # Calling hooks one by one, because pluggy's own call stops at the first that raises

    def _call(self, hook: str, name: str) -> object:
        """Return what a plugin's hook returns, or nothing if it has no such hook."""
        function = self._hook(hook, name)
        return function() if function is not None else []

    def _observer_hooks(self, name: str) -> dict[str, Callable[..., Any]]:
        hooks = {hook: self._hook(hook, name) for hook in OBSERVER_HOOKS}
        return {hook: function for hook, function in hooks.items() if function is not None}

    def _hook(self, hook: str, name: str) -> Callable[..., Any] | None:
        """A plugin's function for a hook, called with the arguments that it accepts."""
        for found in getattr(self._manager.hook, hook).get_hookimpls():
            if found.plugin_name == name:
                return _with_its_arguments(found)
        return None


def installed_plugins() -> Plugins:
    """Return the plugins of all installed distributions.

    Every caller gets the same `Plugins`, in whichever thread. The first call reads the
    distributions' entry points, which takes some milliseconds for each hundred distributions.

    Raises:
        ConnectError: The system can't read them, for example because this process has too many open
            files.
    """
    found = _found.get(_INSTALLED)
    if found is None:
        entries = read_entry_points()
        # Several threads may read at once; all of them get what the first one has found.  A lock
        # would be in the wrong hands after a fork.
        found = _found.setdefault(_INSTALLED, Plugins(entries))
    return found


_INSTALLED = "installed"
_found: dict[str, Plugins] = {}


class _Registered(msgspec.Struct, frozen=True, eq=False):
    """What a manually registered plugin provides."""

    group: str
    name: str
    owner: str
    value: object
    version: str = ""


def _with_its_arguments(found: pluggy.HookImpl) -> Callable[..., Any]:
    function, names = found.function, found.argnames

    def call(**arguments: Any) -> Any:
        return function(*[arguments[name] for name in names])

    return call
