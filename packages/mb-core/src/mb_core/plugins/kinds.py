"""The kinds of plugins, and what each must provide.

A kind has a group of entry points, which announces its plugins, and a hook, by which they register
something. What they register is checked here before it is used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from ..authenticators import Authenticator
from ..errors import PluginError
from ..hookspecs import PROJECT, MBSpec
from ..transport import Frontend, WireTransport

__all__ = [
    "AUTHENTICATORS",
    "CODECS",
    "FRONTENDS",
    "GROUPS",
    "HOOKS",
    "KINDS",
    "NOUNS",
    "OBSERVERS",
    "OBSERVER_HOOKS",
    "TRANSPORTS",
    "Kind",
    "check_hooks",
]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


class Kind(msgspec.Struct, frozen=True, eq=False):
    """A kind of plugins.

    An entry point has the name of what its plugin provides, so a plugin is imported only when it is
    needed.

    Attributes:
        noun: What to call one in texts.
        group: The group of entry points.
        hook: The name of the hook.
        key: The attribute that contains the name of a registered value.
        packages: This project's packages, by what they provide. If one is missing, the error says
            which to install.
    """

    noun: str
    group: str
    hook: str
    key: str
    check: Callable[[Any], None]
    """Raises TypeError or ValueError for a value that is not of this kind."""
    packages: Mapping[str, str]
    instead: Mapping[str, str]
    """What to use instead of names that people are likely to try."""

    def title(self, name: str) -> str:
        """Return what to call a plugin with this name in texts."""
        return f"{name}://" if self.key == "scheme" else f"the {self.noun} {name!r}"

    def by_name(self, given: object) -> dict[str, Any]:
        """Return the values that a hook returned, by name.

        Raises:
            TypeError: A value is not of this kind.
            ValueError: A value is invalid, or a name is given twice.
        """
        if not isinstance(given, Iterable) or isinstance(given, str):
            raise TypeError(f"{self.hook} returned {given!r}, not a list of {self.noun}s")
        found: dict[str, Any] = {}
        for value in given:
            self.check(value)
            name = getattr(value, self.key)
            if name in found:
                raise ValueError(f"it returned {self.title(name)} twice")
            found[name] = value
        return found


def _check_transport(value: Any) -> None:
    if not isinstance(value, WireTransport):
        _expect_methods(value, "connect", "listen", hook="mb_register_transports", noun="transport")
    scheme = getattr(value, "scheme", None)
    if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
        raise ValueError(
            f"{scheme!r} is not a URL scheme: expected letters in lower case, digits, + - ."
        )
    if isinstance(value, WireTransport) and value.default_port is None and value.sockets is None:
        raise ValueError(f"{scheme}:// has neither a default_port nor sockets of its own")


def _check_frontend(value: Any) -> None:
    if not isinstance(value, Frontend):
        raise TypeError(f"mb_register_frontends returned {value!r}, which is not a Frontend")
    _expect_name(value, "front end")


def _check_codec(value: Any) -> None:
    _expect_methods(value, "encode", "decode", hook="mb_register_codecs", noun="codec")
    _expect_name(value, "codec")


def _check_authenticator(value: Any) -> None:
    if not isinstance(value, Authenticator):
        raise TypeError(
            f"mb_register_authenticators returned {value!r}, which is not an Authenticator"
        )
    if not callable(value.create):
        raise TypeError(f"the create of {value.name!r} is {value.create!r}, which can't be called")
    _expect_name(value, "authenticator")


def _expect_methods(value: Any, *names: str, hook: str, noun: str) -> None:
    for name in names:
        if not callable(getattr(value, name, None)):
            raise TypeError(
                f"{hook} returned {value!r}, which is not a {noun}: it has no method {name}"
            )


def _expect_name(value: Any, noun: str) -> None:
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is not a name for a {noun}: expected a string")


TRANSPORTS = Kind(
    noun="transport",
    group="mb.transports",
    hook="mb_register_transports",
    key="scheme",
    check=_check_transport,
    packages={
        "tcp": "mb-tcp",
        "tls": "mb-tcp",
        "ws": "mb-ws",
        "wss": "mb-ws",
        "memory": "mb-broker",
    },
    # A broker's page has an http:// URL; clients connect to the same port.
    instead={"http": "ws", "https": "wss"},
)
FRONTENDS = Kind(
    noun="front end",
    group="mb.frontends",
    hook="mb_register_frontends",
    key="name",
    check=_check_frontend,
    packages={"asyncio": "mb-core", "trio": "mb-core", "sync": "mb-sync"},
    instead={},
)
CODECS = Kind(
    noun="codec",
    group="mb.codecs",
    hook="mb_register_codecs",
    key="name",
    check=_check_codec,
    packages={},
    instead={},
)
AUTHENTICATORS = Kind(
    noun="authenticator",
    group="mb.authenticators",
    hook="mb_register_authenticators",
    key="name",
    check=_check_authenticator,
    packages={"tokens": "mb-broker", "certificates": "mb-broker", "jwt": "mb-broker"},
    instead={},
)
KINDS = (TRANSPORTS, FRONTENDS, CODECS, AUTHENTICATORS)

OBSERVERS = "mb.observers"
"""The group of observers. They are not chosen by name: every installed one is used."""

NOUNS = {**{kind.group: kind.noun for kind in KINDS}, OBSERVERS: "observer"}
"""What to call the plugins of a group, in the order in which they are shown."""

GROUPS = tuple(NOUNS)
"""The groups of entry points that announce plugins."""

HOOKS = [name for name in vars(MBSpec) if name.startswith("mb_")]
OBSERVER_HOOKS = [name for name in HOOKS if name not in {kind.hook for kind in KINDS}]


def check_hooks(plugin: object) -> None:
    """Check the functions of a plugin that implement hooks.

    pluggy checks the names of hooks and of their arguments when the plugin is registered.

    Raises:
        PluginError: A function can't be called as a hook.
    """
    if inspect.isclass(plugin):
        raise PluginError(f"{plugin.__name__} is a class: register an instance of it")
    for hook in HOOKS:
        function = getattr(plugin, hook, None)
        if function is None:
            continue
        options = getattr(function, f"{PROJECT}_impl", None)
        if options is None:
            raise PluginError(f"{hook} is not marked with @mb_core.hookimpl")
        if inspect.iscoroutinefunction(function):
            raise PluginError(f"{hook} is a coroutine function: hooks must be plain functions")
        if options["wrapper"] or options["hookwrapper"]:
            raise PluginError(f"{hook} is a hook wrapper, which is not supported")
        parameters = inspect.signature(function).parameters.values()
        if any(
            each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in parameters
        ):
            raise PluginError(f"{hook} has keyword-only arguments: remove the * before them")
