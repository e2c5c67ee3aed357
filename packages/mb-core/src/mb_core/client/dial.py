"""Opening a Link to a URL, over whichever transport speaks its scheme."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from ..errors import ConnectError
from ..link import Accept, Backend, Link, Spawn, StreamOptions, client_ssl_context
from ..plugins import Plugins, installed_plugins
from ..transport import WireTransport
from ..url import URL
from ..wire import Limits
from .address import dial_address

__all__ = ["ConnectionOptions", "dial"]


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How a connection is opened and closed; times in seconds.

    `plugins` is None for those that are installed; `ssl_context` None for the default, which
    verifies certificate and host name.
    """

    connect_timeout: float
    close_timeout: float
    limits: Limits
    ssl_context: ssl.SSLContext | None
    plugins: Plugins | None


async def dial(
    url: URL, accept: Accept, options: ConnectionOptions, *, backend: Backend, spawn: Spawn
) -> Link:
    """Connect to `url`; raises ConnectError, or PluginError where no plugin speaks the scheme.

    The caller limits the time: its error says more than this function knows.
    """
    plugins = options.plugins if options.plugins is not None else installed_plugins()
    transport = plugins.transport(url.scheme)
    if not isinstance(transport, WireTransport):
        return await transport.connect(url, accept, backend=backend, limits=options.limits)
    ssl_context = options.ssl_context
    if transport.secure:
        ssl_context = ssl_context if ssl_context is not None else client_ssl_context()
    elif ssl_context is not None:
        raise ConnectError(f"an ssl_context was given, and {url} is not encrypted")
    return await backend.connect(
        dial_address(url, transport),
        transport.client(url, options.limits),
        accept,
        options=StreamOptions(
            ssl_context=ssl_context,
            server_hostname=url.host,
            close_timeout=options.close_timeout,
            handshake_timeout=2 * options.connect_timeout,
        ),
        spawn=spawn,
    )
