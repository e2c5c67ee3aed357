"""Front ends: the ways to use the client, by name, and those that come with this package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from .client import MessageBrokerClient
from .codec import JSON, Codec
from .errors import LocalProtocolError, PluginError
from .hookspecs import hookimpl
from .link import current_backend
from .plugins import InstalledPlugin, Plugins, installed_plugins
from .transport import Frontend

__all__ = ["asyncio_plugin", "connect", "frontends", "trio_plugin"]


def connect(
    url: str | Sequence[str] | None = None,
    *,
    frontend: str | None = None,
    plugins: Plugins | None = None,
    **options: Any,
) -> Any:
    """A client of an installed front end, to be entered: entering it connects.

        async with mb_core.connect("tcp://localhost:8081") as client: ...
        with mb_core.connect("tcp://localhost:8081", frontend="sync") as client: ...

    For programs that leave the choice to a setting; others name the class that they use.  By
    default it is the front end of the running event loop.  `options` are those of the client.

    Raises PluginError where there is no such front end, LocalProtocolError where none was named
    and no event loop runs.
    """
    if frontend is None:
        try:
            frontend = current_backend().name
        except RuntimeError:
            raise LocalProtocolError(
                'no event loop runs here: name a front end, frontend="sync" for one without'
            ) from None
    found = plugins if plugins is not None else installed_plugins()
    return found.frontend(frontend).client(url, plugins=plugins, **options)


def frontends(plugins: Plugins | None = None) -> list[InstalledPlugin]:
    """The front ends that are installed, with the distributions that they come from."""
    found = plugins if plugins is not None else installed_plugins()
    return [plugin for plugin in found.installed if plugin.kind == "front end"]


class _Asyncio:
    """The client on asyncio, and JSON."""

    @hookimpl
    def mb_register_frontends(self) -> list[Frontend]:
        return [Frontend("asyncio", MessageBrokerClient)]

    @hookimpl
    def mb_register_codecs(self) -> list[Codec]:
        return [JSON]


class _Trio:
    """The client on trio, where that is installed: the same one, which finds out its loop."""

    @hookimpl
    def mb_register_frontends(self) -> list[Frontend]:
        if find_spec("trio") is None:
            raise PluginError("trio is not installed: pip install 'mb-core[trio]'")
        return [Frontend("trio", MessageBrokerClient)]


# What this distribution's entry points name.
asyncio_plugin = _Asyncio()
trio_plugin = _Trio()
