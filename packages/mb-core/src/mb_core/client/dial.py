"""Opening a Link to a URL, over whichever transport speaks its scheme."""

from __future__ import annotations

import ssl

from ..errors import ConnectError
from ..link import Accept, Backend, Link, Spawn, StreamOptions, client_ssl_context
from ..plugins import Plugins
from ..transport import WireTransport
from ..url import URL
from ..wire import Limits
from .address import dial_address

__all__ = ["dial"]


async def dial(
    url: URL,
    accept: Accept,
    *,
    plugins: Plugins,
    backend: Backend,
    limits: Limits,
    ssl_context: ssl.SSLContext | None,
    close_timeout: float,
    handshake_timeout: float,
    spawn: Spawn,
) -> Link:
    """Connect to `url`; raises ConnectError, or PluginError where no plugin speaks the scheme.

    Over TLS, `ssl_context` replaces the default context, which verifies certificate and host
    name.
    """
    transport = plugins.transport(url.scheme)
    if not isinstance(transport, WireTransport):
        return await transport.connect(url, accept, backend=backend, limits=limits)
    if transport.secure:
        ssl_context = ssl_context if ssl_context is not None else client_ssl_context()
    elif ssl_context is not None:
        raise ConnectError(f"an ssl_context was given, and {url} is not encrypted")
    return await backend.connect(
        dial_address(url, transport),
        transport.client(url, limits),
        accept,
        options=StreamOptions(
            ssl_context=ssl_context,
            server_hostname=url.host,
            close_timeout=close_timeout,
            handshake_timeout=handshake_timeout,
        ),
        spawn=spawn,
    )
