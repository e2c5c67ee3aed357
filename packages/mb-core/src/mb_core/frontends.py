"""Front ends: the ways to use the client, by name, including those in this package."""

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
    """Return a client of an installed front end. Entering it connects it.

    Use it if a setting chooses the front end. Otherwise, use a client's class directly.

    Example::

        async with connect("tcp://localhost:8081") as client:
            await client.publish("order.paid", {"id": 7})

        with connect("tcp://localhost:8081", frontend="sync") as client:
            client.publish("order.paid", {"id": 7})

    Args:
        url: URL of the broker, or a list of URLs, as for the client.
        frontend: The front end's name; by default that of the running event loop.
        plugins: Plugins to use instead of the installed ones.
        **options: The other options of the client.

    Raises:
        PluginError: There is no such front end.
        LocalProtocolError: No front end was named, and no event loop is running. Or an option is
            invalid.
    """
    if frontend is None:
        try:
            frontend = current_backend().name
        except RuntimeError:
            raise LocalProtocolError(
                'no event loop is running here: pass a front end, such as frontend="sync"'
            ) from None
    found = plugins if plugins is not None else installed_plugins()
    return found.frontend(frontend).client(url, plugins=plugins, **options)


def frontends(plugins: Plugins | None = None) -> list[InstalledPlugin]:
    """Return the installed front ends, with the distributions that contain them.

    Example::

        print([frontend.name for frontend in frontends()])  # ['asyncio', 'sync', 'trio']
    """
    found = plugins if plugins is not None else installed_plugins()
    return [plugin for plugin in found.installed if plugin.kind == "front end"]


class _Asyncio:
    """Provides the client on asyncio, and JSON."""

    @hookimpl
    def mb_register_frontends(self) -> list[Frontend]:
        return [Frontend("asyncio", MessageBrokerClient)]

    @hookimpl
    def mb_register_codecs(self) -> list[Codec]:
        return [JSON]


class _Trio:
    """Provides the client on trio, if installed; it is the same client, which detects its loop."""

    @hookimpl
    def mb_register_frontends(self) -> list[Frontend]:
        if find_spec("trio") is None:
            raise PluginError("trio is not installed: pip install 'mb-core[trio]'")
        return [Frontend("trio", MessageBrokerClient)]


# The entry points of this distribution refer to these.
asyncio_plugin = _Asyncio()
trio_plugin = _Trio()
