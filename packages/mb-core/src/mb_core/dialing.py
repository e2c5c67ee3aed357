"""Dialing: from a URL to a Link, over the transport of its scheme."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from .errors import ConnectError, PluginError
from .link import Accept, Address, Backend, Link, Spawn, StreamOptions
from .options import ClientOptions
from .transport import SocketAddress, WireTransport, port_of
from .url import URL
from .user_code import call, failure, text_of

if TYPE_CHECKING:
    import ssl

__all__ = ["CONNECT_TO", "MAX_ANSWERS", "current_token", "dial", "stream_address"]

MAX_ANSWERS = 1024 * 1024
"""The most unread bytes of answers that a client generates by itself."""

CONNECT_TO = "MB_CONNECT_TO"
"""The environment variable that redirects connections: `HOST:PORT=HOST:PORT`, several
joined by commas.  Only the address that is dialled changes, as with curl's --connect-to: URL,
Host header and the name in the certificate stay what the program said."""


async def dial(
    url: URL,
    accept: Accept,
    options: ClientOptions,
    *,
    backend: Backend,
    spawn: Spawn,
    token: str | None = None,
) -> Link:
    """Connect to `url`; raises ConnectError, or PluginError if no plugin supports the scheme.

    `token` is presented with the handshake, if the transport can. The caller limits the time,
    because it can raise a more specific error.
    """
    transport = options.plugins.transport(url.scheme)
    ssl_context = options.ssl_context
    if not isinstance(transport, WireTransport):
        if ssl_context is not None:
            raise ConnectError(f"an ssl_context was given, but {url} does not use TLS", final=True)
        with _blaming(url):
            return await transport.connect(url, accept, backend=backend, limits=options.limits)
    if transport.secure:
        if ssl_context is None:
            ssl_context = await _default_ssl_context()
    elif ssl_context is not None:
        raise ConnectError(f"an ssl_context was given, but {url} does not use TLS", final=True)
    with _blaming(url):
        address = stream_address(url, transport)
        if token is not None and transport.client_with_token is not None:
            wire = transport.client_with_token(url, options.limits, token)
        else:
            wire = transport.client(url, options.limits)
    return await backend.connect(
        address,
        wire,
        accept,
        options=StreamOptions(
            ssl_context=ssl_context,
            server_hostname=url.host,
            close_timeout=options.close_timeout,
            handshake_timeout=2 * options.connect_timeout,
            max_answers=MAX_ANSWERS,
        ),
        spawn=spawn,
    )


async def current_token(options: ClientOptions) -> str | None:
    """Return the token for a new connection; raises ConnectError if its function fails."""
    get, seconds = options.token, options.connect_timeout
    if get is None:
        return None
    error: Exception | None = None
    token: object = None
    with anyio.move_on_after(seconds) as scope:
        try:
            token = await call(get)
        except BaseException as raised:  # `failure` raises again what is not its failure
            error = failure(raised)
    what = f"the function {_name_of_source(get)}, which has to return a token,"
    if scope.cancelled_caught:
        raise ConnectError(f"{what} took longer than {seconds:g} s")
    if error is not None:
        raise ConnectError(f"{what} failed: {text_of(error)}") from error
    if not isinstance(token, str) or not token:
        kind = f"an object of type {type(token).__name__}" if token != "" else "an empty string"
        raise ConnectError(f"{what} returned {kind}", final=True)
    if not token.isprintable():
        kind = "a string with characters that can't be printed, such as a line break"
        raise ConnectError(f"{what} returned {kind}", final=True)
    return token


def _name_of_source(get: Callable[..., object]) -> str:
    """Return the name of a function that returns tokens, without arguments bound to it.

    These may be secrets, and the repr of a partial shows them.
    """
    while isinstance(get, partial):
        get = get.func
    name = getattr(get, "__qualname__", None)
    return name if isinstance(name, str) else type(get).__qualname__


async def _default_ssl_context() -> ssl.SSLContext:
    """Create a context in a thread, because it reads the system's certificates at each connect.

    That takes 20 ms, and must not block other tasks. When cancelled, the thread finishes in the
    background.
    """
    # Imported here so that programs without TLS need not load it.
    import anyio.to_thread

    from .link.tls import client_ssl_context

    one_more = anyio.CapacityLimiter(1)  # however many threads the program uses
    try:
        return await anyio.to_thread.run_sync(
            client_ssl_context, abandon_on_cancel=True, limiter=one_more
        )
    except RuntimeError:  # the system can't start a thread, or the interpreter is shutting down
        return client_ssl_context()


@contextmanager
def _blaming(url: URL) -> Iterator[None]:
    """Turn errors of a transport into a ConnectError, or a PluginError if the transport is broken.

    An OSError becomes a ConnectError, because the next attempt may succeed.
    """
    try:
        yield
    except (ConnectError, PluginError):
        raise
    except BaseException as raised:
        error = failure(raised)
        text = url.hidden_in(str(error)) or type(error).__name__
        if _is_of_system(error):
            raise ConnectError(f"can't connect to {url}: {text}") from error
        raise PluginError(f"the transport of {url.scheme}:// failed at {url}: {text}") from error


def _is_of_system(error: Exception) -> bool:
    """Return whether it is an OSError, or a group of only OSErrors, as task groups raise them."""
    if isinstance(error, ExceptionGroup):
        return error.split(OSError)[1] is None
    return isinstance(error, OSError)


def stream_address(
    url: URL, transport: WireTransport, environ: Mapping[str, str] = os.environ
) -> Address | SocketAddress:
    """Return the address to open a stream to."""
    if transport.sockets is not None:
        return transport.sockets.address(url)
    if not url.host:
        raise ConnectError(f"the URL {url} names no host", final=True)
    port = port_of(url, transport)
    for rule in environ.get(CONNECT_TO, "").split(","):
        if not rule.strip():
            continue
        given, _, instead = rule.partition("=")
        given_host, given_port = _host_and_port(given)
        if given_host.lower() == url.host.lower() and given_port == str(port):
            host, number = _host_and_port(instead)
            if not host or not number.isdecimal() or int(number) > 65_535:
                raise ConnectError(
                    f"{CONNECT_TO} has the rule {rule.strip()!r}: expected HOST:PORT=HOST:PORT",
                    final=True,
                )
            return host, int(number)
    return url.host, port


def _host_and_port(text: str) -> tuple[str, str]:
    """The two parts of `HOST:PORT`, or of `[IPv6]:PORT`."""
    host, _, port = text.strip().rpartition(":")
    return host.strip("[]"), port
