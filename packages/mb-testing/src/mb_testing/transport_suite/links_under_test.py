"""Links of one transport, for one test on one event loop; and that nothing is left of them."""

from __future__ import annotations

import contextlib
import gc
import logging
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from mb_core.dialing import dial
from mb_core.hookspecs import hookimpl
from mb_core.link import Accept, Link, Listener, StreamOptions, current_backend
from mb_core.listening import listen
from mb_core.options import ClientOptions
from mb_core.plugins import Plugins
from mb_core.transport import Transport
from mb_core.url import URL, parse_url

from ..links import LinkEnd
from .requirements import HANDLED_IN_ORDER, NO_BUG, NOTHING_LEFT, expect
from .settings import LIMITS, Settings

__all__ = ["Network", "Server"]


class Server:
    """A Listener, and the ends of the Links that it has accepted."""

    def __init__(self, accept: Callable[[Link], LinkEnd]) -> None:
        self.url: URL
        self.listener: Listener
        self.ends: list[LinkEnd] = []
        self._accept = accept
        self._changed = anyio.Event()

    def accept(self, link: Link) -> LinkEnd:
        end = self._accept(link)
        self.ends.append(end)
        self._changed.set()
        self._changed = anyio.Event()
        return end

    async def accepted(self, number: int = 0) -> LinkEnd:
        """The end of a Link, as soon as it is accepted."""
        while len(self.ends) <= number:
            await self._changed.wait()
        return self.ends[number]


class Network:
    """Opens Links of a transport, as the client and the broker do."""

    def __init__(self, suite: Settings, folder: Path, tasks: anyio.abc.TaskGroup) -> None:
        self.suite = suite
        self.transport = suite.transport
        self.plugins = Plugins()
        self.plugins.register(_Plugin(suite.transport), "the transport under test")
        self.tasks = tasks
        self.backend = current_backend()
        self.has_failed = False
        self.patience = suite.time_limit / 4
        self.server_context: ssl.SSLContext | None = None
        self.client_context: ssl.SSLContext | None = None
        if suite.over_streams is not None and suite.over_streams.secure:
            self.server_context, self.client_context = suite.ssl_contexts()
        self._folder = folder
        self._ends: list[LinkEnd] = []
        self._listeners: list[Listener] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, suite: Settings, folder: Path) -> AsyncIterator[Network]:
        """Open a Network, and check at the end of the block that nothing is left of it."""
        before = {task.id for task in anyio.get_running_tasks()}
        with _watched_log() as reports, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", ResourceWarning)
            async with anyio.create_task_group() as tasks:
                net = cls(suite, folder, tasks)
                yield net
                await net._end()
                tasks.cancel_scope.cancel()
            if net.has_failed:
                return  # what is left then says nothing
            await anyio.wait_all_tasks_blocked()
            left = [t.name for t in anyio.get_running_tasks() if t.id not in before]
            gc.collect()  # sockets that were not closed warn now
        unclosed = [str(w.message) for w in warned if w.category is ResourceWarning]
        files = _files_in(folder)
        expect(NO_BUG, not reports, "the log says:\n" + "\n".join(reports))
        expect(NOTHING_LEFT, not left, f"tasks still run: {', '.join(map(str, left))}")
        expect(NOTHING_LEFT, not unclosed, f"sockets are open: {', '.join(unclosed)}")
        expect(NOTHING_LEFT, not files, f"files are left: {', '.join(files)}")
        faults = [fault for end in net._ends for fault in end.faults]
        expect(HANDLED_IN_ORDER, not faults, "; ".join(faults))

    def new_url(self, name: str = "here") -> URL:
        """Return a URL to listen at; each name has a URL of its own."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return parse_url(self.suite.url(folder))

    async def listen(
        self,
        accept: Callable[[Link], LinkEnd] = LinkEnd,
        *,
        url: URL | None = None,
        close_timeout: float = 5.0,
    ) -> Server:
        """Listen at a URL; its Links are kept, and ended after the test."""
        server = Server(self._keeping(accept))
        server.url, server.listener = await listen(
            url if url is not None else self.new_url(),
            self.transport,
            server.accept,
            backend=self.backend,
            limits=LIMITS,
            options=StreamOptions(ssl_context=self.server_context, close_timeout=close_timeout),
            spawn=self.tasks.start_soon,
        )
        self._listeners.append(server.listener)
        return server

    async def connect(
        self,
        url: URL,
        accept: Callable[[Link], LinkEnd] = LinkEnd,
        *,
        close_timeout: float = 5.0,
    ) -> LinkEnd:
        """Connect as the client does."""
        made: list[LinkEnd] = []
        keep = self._keeping(accept)

        def accept_one(link: Link) -> LinkEnd:
            made.append(keep(link))
            return made[-1]

        await self.dial(url, accept_one, close_timeout=close_timeout)
        return made[0]

    async def dial(self, url: URL, accept: Accept, *, close_timeout: float = 5.0) -> Link:
        """Connect with a handler that is not kept."""
        options = ClientOptions(
            connect_timeout=5.0,
            close_timeout=close_timeout,
            limits=LIMITS,
            ssl_context=self.client_context,
            given_plugins=self.plugins,
        )
        return await dial(url, accept, options, backend=self.backend, spawn=self.tasks.start_soon)

    async def pair(self) -> tuple[LinkEnd, LinkEnd]:
        """The client's and the server's end of a new connection."""
        server = await self.listen()
        return await self.connect(server.url), await server.accepted()

    async def sides(self, side: str) -> tuple[LinkEnd, LinkEnd]:
        """The end of this side ("client" or "server"), and the other one."""
        client, server = await self.pair()
        return (client, server) if side == "client" else (server, client)

    def _keeping(self, accept: Callable[[Link], LinkEnd]) -> Callable[[Link], LinkEnd]:
        def keep(link: Link) -> LinkEnd:
            end = accept(link)
            self._ends.append(end)
            return end

        return keep

    async def _end(self) -> None:
        with anyio.move_on_after(self.patience, shield=True):
            for listener in self._listeners:
                await listener.close()
            for end in self._ends:
                end.link.abort()
            for end in self._ends:
                await end.ended()


def _files_in(folder: Path) -> list[str]:
    return [str(path) for place in folder.iterdir() for path in place.iterdir()]


class _Plugin:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @hookimpl
    def mb_register_transports(self) -> list[Transport]:
        return [self._transport]


class _Reports(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))  # with the traceback


@contextlib.contextmanager
def _watched_log() -> Any:
    """Collect the errors that the library and asyncio log meanwhile."""
    handler = _Reports()
    loggers = [logging.getLogger(name) for name in ("mb_core", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
