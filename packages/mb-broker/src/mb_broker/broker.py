"""The Broker: a Router, and connections over every installed transport."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

import anyio
import anyio.abc

from mb_core.errors import LocalProtocolError
from mb_core.link import (
    Accept,
    Backend,
    Home,
    Listener,
    Spawn,
    StreamOptions,
    current_backend,
)
from mb_core.listening import listen
from mb_core.options import check_options
from mb_core.plugins import Plugins, installed_plugins
from mb_core.url import URL, parse_url
from mb_core.wire import Limits, Site

from .access import Access, read_access_file
from .connections import Connections
from .heartbeats import link_progress
from .host_metrics import host_metrics
from .http import OriginPolicy, broker_pages
from .options import BrokerOptions, BrokerSettings, RouterOptions, complete_options
from .router import Router

if TYPE_CHECKING:
    import ssl

__all__ = ["Broker", "WrapAccept", "url_of"]

_log = logging.getLogger("mb_broker")

# Wraps the function that handles new Links, for example to inject faults in tests; the tasks it
# starts run as long as the broker.
WrapAccept = Callable[[Accept, Backend, Spawn], Accept]


class Broker:
    """An MB broker in this process, on the running event loop (asyncio or trio).

    Example::

        async with Broker("tcp://127.0.0.1:0", "memory://") as broker:
            async with MessageBrokerClient(broker.url) as client:
                print(client.connected, broker.urls)

    A client that exceeds a limit gets an error or loses its connection. Other clients are not
    affected, and the log names the limit.

    Leaving the block waits for answers to pending requests, up to `drain_timeout`, unless the block
    raised an error or was cancelled. Then every connection is closed. A Broker can be entered only
    once.

    Args:
        *urls: Where to listen; by default on `memory://` under a new name. With port 0, the broker
            chooses a free port and shows it in `urls`.
        ssl_context: Holds the broker's certificate, for `tls://` and `wss://`.
        plugins: Plugins to use instead of the installed ones.
        wrap_accept: For tests: called when the broker is entered; the callable that it returns
            accepts connections in the broker's place.
        faults: Deprecated. Use `wrap_accept`.
        **options: Limits and time limits, in bytes and milliseconds; see `BrokerOptions`.

    Raises:
        LocalProtocolError: An option is invalid, or the access file is.
        ConnectError: A URL is invalid. When entered: the broker can't listen on a URL.
        PluginError: When entered: no plugin supports a URL's scheme.

    Attributes:
        urls: The URLs on which the broker listens, with the real ports.
        options: All options with their values.
    """

    def __init__(
        self,
        *urls: str,
        ssl_context: ssl.SSLContext | None = None,
        plugins: Plugins | None = None,
        wrap_accept: WrapAccept | None = None,
        faults: Any = None,
        **options: Unpack[BrokerOptions],
    ) -> None:
        self.urls: list[str] = []
        if faults is not None:
            text = "Broker(faults=faults) is deprecated: use wrap_accept=faults.wrap_accept"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            wrap_accept = getattr(faults, "wrap_accept", faults)
        check_options(ssl_context=ssl_context, plugins=plugins, wrap_accept=wrap_accept)
        if isinstance(access := options.get("access"), os.PathLike):
            options["access"] = os.fspath(access)
        self.options = settings = complete_options(options, BrokerSettings)
        self._wanted = [parse_url(url) for url in urls or ("memory://",)]
        self._plugins = plugins
        users = self._read_access(settings.access) if settings.access is not None else None
        self._wrap_accept = wrap_accept
        self._router = Router(RouterOptions.of(settings), host_metrics(), link_progress, users)
        self._connections = Connections(self._router, settings)
        self._limits = Limits(settings.max_payload, settings.max_payload + settings.max_header)
        self._streams = StreamOptions(
            handshake_timeout=settings.handshake_timeout / 1000,
            close_timeout=settings.close_timeout / 1000,
            max_handshakes=settings.max_handshakes,
            unread=self._connections.check_unread,
            refused=self._connections.handshake_failed,
            ssl_context=ssl_context,
        )
        pages = broker_pages(
            self._router,
            lambda: self._connections.clock(),
            with_page=settings.page,
            with_metrics=settings.metrics,
        )
        policy = OriginPolicy(settings.origins, (url.host for url in self._wanted))
        self._site = Site(pages, policy.forbid)
        self._listeners: list[Listener] = []
        self._tasks: anyio.abc.TaskGroup
        self._home: Home
        self._accepting: Accept = self._connections.accept

    @property
    def url(self) -> str:
        """The first of `urls`."""
        return self.urls[0]

    def url_of(self, scheme: str) -> str:
        """Return the first URL of this scheme, such as `broker.url_of("tcp")`.

        Raises:
            LookupError: The broker does not listen on such a URL.
        """
        return url_of(self.urls, scheme)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def __aenter__(self) -> Broker:
        if self.urls:
            raise LocalProtocolError("a Broker can be entered only once: create a new one")
        backend = current_backend()
        self._home = Home(backend)
        self._tasks = anyio.create_task_group()
        self._connections.start(backend, self._tasks)
        await self._tasks.__aenter__()
        try:
            if self._wrap_accept is not None:
                spawn = self._tasks.start_soon
                self._accepting = self._wrap_accept(self._connections.accept, backend, spawn)
            for url in self._wanted:
                await self._listen(url, backend)
        except BaseException:
            self.urls.clear()
            await self._end()
            raise
        self._tasks.start_soon(self._connections.timer.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._home.forked:
            return  # the connections belong to the process before the fork
        try:
            if kind is None:
                await self.drain()
        finally:
            await self._end()

    async def drain(self) -> None:
        """Stop listening, refuse new requests, and wait for answers to pending ones.

        It waits up to `drain_timeout`. If cancelled, connections stay open, and new requests are
        still refused.
        """
        self._home.check("broker")
        self._router.requests.draining = True
        await self._stop_listening()
        if self._router.outstanding:
            with anyio.move_on_after(self.options.drain_timeout / 1000) as scope:
                await self._connections.wait_idle()
            if scope.cancelled_caught:
                count = self._router.outstanding
                text = f"gave up on {count} request{'s'[: count > 1]} in flight (drain_timeout)"
                self._connections.write_log("warn", text)
                self._connections.flush()

    def reload_access(self) -> None:
        """Read the access file again, and apply it to all clients at once.

        Clients whose users were removed or have other credentials are disconnected. Subscriptions
        that are no longer allowed end, and their clients get `ForbiddenError`.

        Raises:
            LocalProtocolError: The file is invalid; or the broker was created without one, or is
                not running. Nothing has changed.
        """
        if self.options.access is None:
            raise LocalProtocolError("this broker has no access file: create it with access=FILE")
        if not self.urls:
            raise LocalProtocolError("the broker is not running: enter it first")
        self._home.check("broker")
        access = self._read_access(self.options.access)
        self._router.replace_access(access, self._connections.clock())
        self._connections.flush()
        self._connections.timer.reschedule()

    async def abort(self) -> None:
        """Stop listening and end every connection at once, as if the process had been killed."""
        self._home.check("broker")
        await self._stop_listening()
        await self._connections.abort()

    # Listening

    def _read_access(self, path: str) -> Access:
        return read_access_file(path, lambda name: self._installed.authenticator(name))

    @property
    def _installed(self) -> Plugins:
        return self._plugins if self._plugins is not None else installed_plugins()

    async def _listen(self, url: URL, backend: Backend) -> None:
        reached, listener = await listen(
            url,
            self._installed.transport(url.scheme),
            self._accepting,
            backend=backend,
            limits=self._limits,
            options=self._streams,
            spawn=self._tasks.start_soon,
            site=self._site,
        )
        self._listeners.append(listener)
        self.urls.append(reached.full)

    async def _stop_listening(self) -> None:
        while self._listeners:
            listener = self._listeners.pop()
            try:
                await listener.close()
            except Exception:
                # A bug in its transport; still close the others.
                _log.exception("internal error: can't stop listening on %s", listener.address)

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._stop_listening()
            await self._connections.close()
        self._tasks.cancel_scope.cancel()
        # Without the error, which the task group would wrap in an ExceptionGroup.
        await self._tasks.__aexit__(None, None, None)


def url_of(urls: Sequence[str], scheme: str) -> str:
    """Return the first of `urls` with this scheme; raises LookupError if there is none."""
    for url in urls:
        if url.startswith(f"{scheme}://"):
            return url
    raise LookupError(f"this broker listens on {', '.join(urls)}, not on {scheme}://")
