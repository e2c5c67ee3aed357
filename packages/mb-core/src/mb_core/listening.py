"""Listen on a URL, over the transport of its scheme, as a broker does."""

from __future__ import annotations

import socket

from msgspec.structs import replace

from .errors import ConnectError
from .link import Accept, Address, Backend, Listener, Spawn, StreamOptions
from .transport import Sockets, Transport, WireTransport, port_of
from .url import URL
from .wire import Limits, Site, Wire

__all__ = ["LOOPBACK", "listen"]

LOOPBACK = "127.0.0.1"
"""The address for URLs without a host."""


async def listen(
    url: URL,
    transport: Transport,
    accept: Accept,
    *,
    backend: Backend,
    limits: Limits,
    options: StreamOptions,
    spawn: Spawn,
    site: Site | None = None,
) -> tuple[URL, Listener]:
    """Accept connections on `url`; yields the URL to connect to, with the actual port.

    A URL without a host listens on this machine's loopback address: only a URL that names an
    address such as 0.0.0.0 opens the port to other machines.

    The `ssl_context` of `options` is for transports that are secure.  Raises ConnectError.  When
    cancelled, nothing listens.
    """
    if not isinstance(transport, WireTransport):
        try:
            listener = await transport.listen(url, accept, backend=backend, limits=limits)
        except OSError as error:
            raise ConnectError(f"can't listen on {url}: {error.strerror or error}") from error
        return URL(url.scheme, listener.address[0], None, ""), listener
    if not transport.secure:
        options = replace(options, ssl_context=None)
    elif options.ssl_context is None:
        raise ConnectError(f"{url} needs an ssl_context with the broker's certificate")
    sockets = transport.sockets
    server = transport.server

    def wire() -> Wire:
        return server(limits, site)

    if sockets is None:
        url = replace(url, host=url.host or LOOPBACK)
        address: Address = (url.host, port_of(url, transport))
        listener = await backend.listen(address, wire, accept, options=options, spawn=spawn)
        return URL(url.scheme, url.host, listener.address[1], url.path), listener
    sock = _socket(sockets, url)
    try:
        listener = await backend.listen(sock, wire, accept, options=options, spawn=spawn)
    except BaseException:
        sock.close()
        sockets.release(url)
        raise
    return url, _Released(listener, sockets, url)


def _socket(sockets: Sockets, url: URL) -> socket.socket:
    try:
        return sockets.listen(url)
    except OSError as error:
        reason = error.strerror or error
        raise ConnectError(f"can't listen on {url}: {reason}") from error


class _Released:
    """A Listener on a socket that needs cleaning up."""

    def __init__(self, listener: Listener, sockets: Sockets, url: URL) -> None:
        self.address = listener.address
        self._listener = listener
        self._sockets = sockets
        self._url = url

    async def close(self) -> None:
        try:
            await self._listener.close()
        finally:
            self._sockets.release(self._url)
