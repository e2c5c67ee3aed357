"""Opening a Link to a URL, over whichever transport speaks its scheme."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from ..errors import ConnectError, PluginError
from ..header import MAX_HEADER
from ..link import Accept, Backend, Link, Spawn, StreamOptions
from ..plugins import Plugins, installed_plugins
from ..transport import WireTransport
from ..url import URL
from ..wire import Limits
from .address import stream_address
from .arguments import check_options
from .callbacks import failure

if TYPE_CHECKING:
    import ssl

__all__ = ["MAX_ANSWERS", "ConnectionOptions", "dial"]

MAX_ANSWERS = 1024 * 1024
"""Bytes of a client's own answers, which nobody waits for, that a broker may leave unread."""

# The largest message that a client takes: lists of a broker's services and topics grow with it.
_MAX_RECEIVED = 16 * 1024 * 1024


class ConnectionOptions(msgspec.Struct, frozen=True):
    """How a connection is opened and closed; times in seconds.

    `ssl_context` is None for the default, which verifies certificate and host name.
    """

    connect_timeout: float
    close_timeout: float
    limits: Limits
    ssl_context: ssl.SSLContext | None
    given_plugins: Plugins | None

    @property
    def plugins(self) -> Plugins:
        """Those that were given, or those that are installed, which are looked for now."""
        return self.given_plugins if self.given_plugins is not None else installed_plugins()

    @classmethod
    def of(
        cls,
        *,
        connect_timeout: int,
        close_timeout: int,
        max_payload: int,
        ssl_context: ssl.SSLContext | None,
        plugins: Plugins | None,
    ) -> ConnectionOptions:
        """From a client's arguments, with times in milliseconds.

        Raises LocalProtocolError for invalid values.
        """
        check_options(
            connect_timeout=connect_timeout,
            close_timeout=close_timeout,
            max_payload=max_payload,
            ssl_context=ssl_context,
            plugins=plugins,
        )
        return cls(
            connect_timeout=connect_timeout / 1000,
            close_timeout=close_timeout / 1000,
            limits=Limits(max_payload, max(_MAX_RECEIVED, max_payload + MAX_HEADER)),
            ssl_context=ssl_context,
            given_plugins=plugins,
        )


async def dial(
    url: URL, accept: Accept, options: ConnectionOptions, *, backend: Backend, spawn: Spawn
) -> Link:
    """Connect to `url`; raises ConnectError, or PluginError where no plugin speaks the scheme.

    The caller limits the time: its error says more than this function knows.
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


async def _default_ssl_context() -> ssl.SSLContext:
    """Make a context in a thread: it reads the system's certificates, at each connect.

    That takes 20 ms, for which other tasks should not have to wait.  When cancelled, the thread
    finishes by itself.
    """
    # Programs without TLS do not pay for these.
    import anyio.to_thread

    from ..link.tls import client_ssl_context

    one_more = anyio.CapacityLimiter(1)  # however many threads the program has busy
    try:
        return await anyio.to_thread.run_sync(
            client_ssl_context, abandon_on_cancel=True, limiter=one_more
        )
    except RuntimeError:  # the system has no thread left, or the interpreter is shutting down
        return client_ssl_context()


@contextmanager
def _blaming(url: URL) -> Iterator[None]:
    """Turn what a transport raises into a ConnectError, or a PluginError that says it is at fault.

    What the network or the system refuses may work at the next try, so an OSError is the former.
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
    """Whether it is an OSError, or a group of nothing else, as task groups raise them."""
    if isinstance(error, ExceptionGroup):
        return error.split(OSError)[1] is None
    return isinstance(error, OSError)
