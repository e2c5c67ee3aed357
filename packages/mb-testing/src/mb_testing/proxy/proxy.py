"""A TCP proxy that does to connections what networks do to them.

It runs in a thread of its own, so it is the same for clients on every event loop and goes on
while theirs is blocked.  A test controls it by plain calls, which return when what they ask for
is in force, and waits for what it has seen instead of sleeping.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from enum import Enum
from types import TracebackType
from typing import Any, TypeVar

import anyio.to_thread
import msgspec
from msgspec.structs import replace

from mb_broker.ports import HOST, listening_socket, reserved_port
from mb_core.errors import ConnectError
from mb_core.url import URL, parse_url

from .connection import Cut, Direction, Relay
from .pipe import FAIR, Weather

__all__ = ["Gate", "Proxy", "Seen", "Where"]

T = TypeVar("T")

# Seconds after which what a test waits for counts as never coming.
PATIENCE = 30.0


class Where(Enum):
    """The connections for which a change is meant."""

    LIVING = "those that there are"
    COMING = "those to come"
    EVERYWHERE = "all"


class Gate(Enum):
    """What becomes of new connections."""

    OPEN = "they lead to the server"
    SILENT = "they are accepted, and nothing else happens"
    REFUSE = "nobody listens on the port"


class Seen(msgspec.Struct, frozen=True):
    """What has happened so far; bytes are those of all connections."""

    accepted: int = 0
    ended: int = 0
    received_up: int = 0
    received_down: int = 0
    forwarded_up: int = 0
    forwarded_down: int = 0

    @property
    def living(self) -> int:
        return self.accepted - self.ended


class Proxy:
    """Accepts connections on a port of its own and leads them to `target`, a TCP URL.

        with Proxy(mb_broker.url_of("tcp")) as proxy:
            proxy.set(Weather(chunk=1))
            ... MessageBrokerClient(proxy.url) ...

    A context manager; its end resets what connections there are, and raises what went wrong
    within the proxy itself.  `target` may be set anew for connections to come.  Raises
    ConnectError for a URL without host or port.
    """

    _target: URL

    def __init__(self, target: str) -> None:
        self.target = target
        self._news = threading.Condition()
        self._seen = Seen()
        self._closed = False
        self._coming: dict[Direction, Callable[[], Weather]] = dict.fromkeys(
            Direction, lambda: FAIR
        )
        self._gate = Gate.REFUSE
        # A dict for its order: the oldest first.
        self._connections: dict[Relay, None] = {}
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
        """The URL to which connections to come are led."""
        return self._target.full

    @target.setter
    def target(self, url: str) -> None:
        target = parse_url(url)
        if not target.host or not target.port:
            raise ConnectError(f"a proxy needs a URL with a host and a port, got {url}")
        self._target = target

    @property
    def url(self) -> str:
        """The URL of the proxy for clients: that of the target, but for host and port."""
        return replace(self._target, host=HOST, port=self.port).full

    # Faults

    def admit(self, gate: Gate) -> None:
        """Decide over connections to come."""
        self._call(self._admit(gate))

    def set(
        self,
        weather: Weather | Callable[[], Weather],
        *directions: Direction,
        where: Where = Where.EVERYWHERE,
    ) -> None:
        """Set the weather, of both directions where none is named.

        A function is called for each direction of each connection.
        """

        def make() -> Weather:
            return weather if isinstance(weather, Weather) else weather()

        async def change() -> None:
            for direction in directions or Direction:
                if where is not Where.LIVING:
                    self._coming[direction] = make
                if where is not Where.COMING:
                    for connection in self._connections:
                        connection.change(direction, make())

        self._call(change())

    def cut(self, how: Cut, *, oldest: int | None = None) -> int:
        """End the connections that there are, or so many of the oldest; returns how many."""

        async def cut() -> int:
            connections = list(self._connections)[:oldest]
            await asyncio.gather(*(connection.cut(how) for connection in connections))
            return len(connections)

        return self._call(cut())

    def inject(self, data: bytes, direction: Direction) -> None:
        """Put `data` into the streams of all connections that lead to the server."""

        async def inject() -> None:
            pipes = [c.pipes[direction] for c in self._connections if direction in c.pipes]
            await asyncio.gather(*(pipe.inject(data) for pipe in pipes))

        self._call(inject())

    # What has happened

    @property
    def seen(self) -> Seen:
        return self._seen

    def wait_until(self, fact: Callable[[Seen], bool], timeout: float = PATIENCE) -> Seen:
        """Block until `fact` holds of what was seen; raises TimeoutError that says what was."""
        with self._news:
            found = self._news.wait_for(lambda: fact(self._seen) or self._closed, timeout)
            if not found or not fact(self._seen):
                raise TimeoutError(f"within {timeout} s the proxy has seen only {self._seen}")
            return self._seen

    async def until(self, fact: Callable[[Seen], bool], timeout: float = PATIENCE) -> Seen:
        """The same, with the event loop going on; may be cancelled."""
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
            await self._admit(Gate.OPEN)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        await self._stop.wait()
        await self._admit(Gate.REFUSE)
        await asyncio.gather(*(c.cut(Cut.RESET) for c in list(self._connections)))
        await asyncio.gather(*self._tasks)
        with self._news:
            self._closed = True
            self._news.notify_all()

    async def _admit(self, gate: Gate) -> None:
        self._gate = gate
        if gate is Gate.REFUSE:
            if self._listener is not None:
                self._loop.remove_reader(self._listener)
                self._listener.close()
                self._listener = None
        elif self._listener is None:
            self._listener = listening_socket(self.port)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it was gone again before it could be accepted
        self._count(accepted=1)
        try:
            connection = Relay(client, lambda direction: self._coming[direction](), self._count)
        except Exception as error:
            client.close()
            self._failures.append(error)
            self._count(ended=1)
            return
        self._connections[connection] = None
        task = asyncio.create_task(self._serve(connection, self._gate))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Relay, gate: Gate) -> None:
        try:
            target = (self._target.host, self._target.port or 0)
            await connection.run(target if gate is Gate.OPEN else None)
        except Exception as error:
            self._failures.append(error)
        finally:
            del self._connections[connection]
            self._count(ended=1)

    def _count(self, **more: int) -> None:
        with self._news:
            sums = {name: getattr(self._seen, name) + number for name, number in more.items()}
            self._seen = replace(self._seen, **sums)
            self._news.notify_all()
