"""A TCP proxy that does to connections what networks do to them.

It runs in a thread of its own, so it works for clients on every event loop, also while theirs is
blocked.  A test controls it by plain calls, which return once they have taken effect, and waits for
its statistics instead of sleeping.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, TypeVar

import anyio.to_thread
import msgspec
from msgspec.structs import replace

from mb_broker.ports import HOST, reserved_port
from mb_core.errors import ConnectError
from mb_core.url import URL, parse_url

from .connection import Cut, Direction, ProxiedConnection
from .pipe import NORMAL, Conditions

__all__ = ["Proxy", "ProxyStats"]

T = TypeVar("T")

# Seconds that a test waits at most for something to happen.
PATIENCE = 30.0


class ProxyStats(msgspec.Struct, frozen=True):
    """How many connections a proxy has had, and how many bytes they have carried.

    Attributes:
        accepted: Connections that were accepted.
        ended: Of these, connections that have ended.
        received_up: Bytes received from clients.
        received_down: Bytes received from the server.
        forwarded_up: Bytes forwarded to the server.
        forwarded_down: Bytes forwarded to clients.
    """

    accepted: int = 0
    ended: int = 0
    received_up: int = 0
    received_down: int = 0
    forwarded_up: int = 0
    forwarded_down: int = 0

    @property
    def open(self) -> int:
        """How many connections are open."""
        return self.accepted - self.ended


class Proxy:
    """A TCP proxy between clients and a server, which can break connections.

    Example::

        with Proxy(broker.url_of("tcp")) as proxy:
            proxy.set(Conditions(chunk=1))
            client = MessageBrokerClient(proxy.url)

    Leaving the block resets all connections, and raises what went wrong in the proxy itself.
    Methods can be called from any thread, and return when they have taken effect.

    Args:
        target: The URL of the server, with a host and a port.

    Raises:
        ConnectError: The URL has no host or port.
    """

    _target: URL

    def __init__(self, target: str) -> None:
        self.target = target
        self._changed = threading.Condition()
        self._stats = ProxyStats()
        self._closed = False
        self._for_new: dict[Direction, Callable[[], Conditions]] = dict.fromkeys(
            Direction, lambda: NORMAL
        )
        self._hanging = False
        # A dict for its order: the oldest first.
        self._connections: dict[ProxiedConnection, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._failures: list[BaseException] = []
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Proxy:
        self.port = self._resources.enter_context(reserved_port())
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(started)), name="proxy", daemon=True
        )
        self._thread.start()
        started.result(PATIENCE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._resources.close()
        if self._failures and error is None:
            raise self._failures[0]

    @property
    def target(self) -> str:
        """The URL to which new connections lead."""
        return self._target.full

    @target.setter
    def target(self, url: str) -> None:
        target = parse_url(url)
        if not target.host or not target.port:
            raise ConnectError(f"a proxy needs a URL with a host and a port, got {url}")
        self._target = target

    @property
    def url(self) -> str:
        """The proxy's URL for clients: that of the target, with another host and port."""
        return replace(self._target, host=HOST, port=self.port).full

    # Faults

    def refuse(self) -> None:
        """Refuse new connections: nothing listens on the port."""
        self._call(self._stop_listening())

    def hang(self) -> None:
        """Accept new connections, and do nothing with them."""
        self._call(self._listen(hanging=True))

    def accept(self) -> None:
        """Forward new connections to the server again, after `refuse` or `hang`."""
        self._call(self._listen(hanging=False))

    def set(
        self,
        conditions: Conditions | Callable[[], Conditions],
        *directions: Direction,
        connections: Literal["all", "existing", "new"] = "all",
    ) -> None:
        """Set what happens to the bytes of connections.

        Args:
            conditions: The conditions, or a function that returns them; it is called separately
                for each direction of each connection.
            *directions: The directions to set; both by default.
            connections: Which connections: `"all"`, `"existing"` or `"new"`.
        """

        def make() -> Conditions:
            return conditions if isinstance(conditions, Conditions) else conditions()

        async def change() -> None:
            for direction in directions or Direction:
                if connections != "existing":
                    self._for_new[direction] = make
                if connections != "new":
                    for connection in self._connections:
                        connection.change(direction, make())

        self._call(change())

    def cut(self, how: Cut, *, oldest: int | None = None) -> int:
        """End connections, and return how many.

        Args:
            how: Whether to reset or to close them.
            oldest: How many, the oldest first; None for all.
        """

        async def cut() -> int:
            connections = list(self._connections)[:oldest]
            await asyncio.gather(*(connection.cut(how) for connection in connections))
            return len(connections)

        return self._call(cut())

    def inject(self, data: bytes, direction: Direction) -> None:
        """Insert `data` into all connections to the server, in one direction."""

        async def inject() -> None:
            pipes = [c.pipes[direction] for c in self._connections if direction in c.pipes]
            await asyncio.gather(*(pipe.inject(data) for pipe in pipes))

        self._call(inject())

    # Statistics

    @property
    def stats(self) -> ProxyStats:
        """What has happened so far."""
        return self._stats

    @property
    def seen(self) -> ProxyStats:
        """The old name of `stats`. Deprecated."""
        text = "Proxy.seen is deprecated: use Proxy.stats"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return self._stats

    def wait_until(
        self, fact: Callable[[ProxyStats], bool], timeout: float = PATIENCE
    ) -> ProxyStats:
        """Block until `fact` is true of the statistics, and return them.

        Args:
            fact: A function of a `ProxyStats`.
            timeout: Time limit in seconds.

        Raises:
            TimeoutError: The time limit has passed; the error shows the last statistics.
        """
        with self._changed:
            found = self._changed.wait_for(lambda: fact(self._stats) or self._closed, timeout)
            if not found or not fact(self._stats):
                raise TimeoutError(f"within {timeout} s the proxy has seen only {self._stats}")
            return self._stats

    async def until(
        self, fact: Callable[[ProxyStats], bool], timeout: float = PATIENCE
    ) -> ProxyStats:
        """Wait like `wait_until`, without blocking the event loop. Can be cancelled."""
        return await anyio.to_thread.run_sync(
            self.wait_until, fact, timeout, abandon_on_cancel=True
        )

    # Within the proxy's thread

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _main(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            await self._listen(hanging=False)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        await self._stop.wait()
        await self._stop_listening()
        await asyncio.gather(*(c.cut(Cut.RESET) for c in list(self._connections)))
        await asyncio.gather(*self._tasks)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _listen(self, *, hanging: bool) -> None:
        self._hanging = hanging
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=128)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it was gone again before it could be accepted
        self._count(accepted=1)
        try:
            connection = ProxiedConnection(
                client, lambda direction: self._for_new[direction](), self._count
            )
        except Exception as error:
            client.close()
            self._failures.append(error)
            self._count(ended=1)
            return
        self._connections[connection] = None
        task = asyncio.create_task(self._serve(connection, hanging=self._hanging))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: ProxiedConnection, *, hanging: bool) -> None:
        try:
            target = (self._target.host, self._target.port or 0)
            await connection.run(None if hanging else target)
        except Exception as error:
            self._failures.append(error)
        finally:
            del self._connections[connection]
            self._count(ended=1)

    def _count(self, **more: int) -> None:
        with self._changed:
            sums = {name: getattr(self._stats, name) + number for name, number in more.items()}
            self._stats = replace(self._stats, **sums)
            self._changed.notify_all()
