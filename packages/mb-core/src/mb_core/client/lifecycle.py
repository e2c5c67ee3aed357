"""The life of a client: connecting, waiting for a connection, running, closing."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from ..codec import Codec
from ..errors import ConnectError, ConnectionLost, LocalProtocolError, MBError
from ..header import check_timeout
from ..link import Poster, checkpoint, current_backend
from ..message import Message
from ..options import ClientOptions, broker_url
from ..session import Outbox, SessionState
from ..stats import ClientStats
from ..url import URL
from ..user_code import check_handler
from .callbacks import Callbacks, Handlers
from .observers import Observers
from .queue import MessageQueue
from .runner import Runner
from .signals import interrupted_twice, interruptible, uninterrupted
from .supervisor import Supervisor
from .tasks import warn_unclosed

__all__ = [
    "CLOSED",
    "CONNECTED_ALREADY",
    "CONNECTING",
    "ENTERED",
    "CallbackMethods",
    "Host",
    "Lifecycle",
]

CONNECTING = "this client is being connected already: client.wait_connected() waits for that"
CONNECTED_ALREADY = "this client was connected already: make a new one"
CLOSED = "this client was closed, and can't be used again: make a new one"
ENTERED = (
    "this client is in a 'with' block already, whose end closes it: use it there as it is, "
    "without another block"
)
_CALLBACKS = frozenset({"on_message", "on_connect", "on_disconnect", "on_error"})


class CallbackMethods:
    """A base of clients, whose methods `on_*` take handlers and can't be assigned to."""

    if not TYPE_CHECKING:  # or type checkers would accept any attribute

        def __setattr__(self, name: str, value: object) -> None:
            if name in _CALLBACKS:
                raise LocalProtocolError(
                    f"{name} is a method, and assigning to it registers nothing: call "
                    f"client.{name}(handler)"
                )
            super().__setattr__(name, value)


class Host:
    """What a client leaves to the front end that runs it; this one is for its own event loop.

    See mb_core.hosted_client.  A host must not refer to its client, except weakly: a client to
    which nothing else refers is closed.
    """

    queue_type: type[MessageQueue] = MessageQueue
    unclosed_remedy = "'async with MessageBrokerClient(...) as client' or 'await client.close()'"

    def post(self, function: Callable[[], object]) -> object:
        """Call `function` in the client's event loop; called in any thread."""
        return function()

    def check_handler(self, handler: Any, name: str = "handler") -> None:
        """Raise LocalProtocolError for a handler that can't be called."""
        check_handler(handler, name)

    def wrap_callback(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return what is called for a handler of events, plain or async."""
        return handler

    def make_runner(
        self,
        queue: MessageQueue,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> Runner:
        """Return what calls a subscription's handler."""
        return Runner(queue, handler, topic, concurrency, callbacks)

    def connecting(self, supervisor: Supervisor) -> None:
        """`supervisor` is about to connect for the first time."""

    def dropped(self) -> None:
        """The client was not closed, and nobody refers to it any more; called in any thread."""


class Lifecycle(CallbackMethods):
    """The half of MessageBrokerClient that is about its connection."""

    _host = Host()

    def __init__(
        self, urls: tuple[str, ...], options: ClientOptions, outbox: Outbox, codec: str | Codec
    ) -> None:
        self._urls = urls
        self._options = options
        self._outbox = outbox
        self._codec = self._options.plugins.codec(codec) if isinstance(codec, str) else codec
        self._handlers = Handlers()
        self._callbacks = Callbacks(self._handlers, self._host.post)
        self._supervisor: Supervisor | None = None
        self._entered = False  # whether a block will close it
        # Those that wait for a connect to begin, maybe on event loops of their own.
        self._waiting: list[tuple[Poster, anyio.Event]] = []
        self._gave_up = False  # whether it was closed since the last connect

    async def connect(
        self, host: str | None = None, port: int | None = None, use_tls: bool = False
    ) -> None:
        """Connect to a broker and wait for its greeting.

        `connect("localhost", 8080)` speaks WebSocket, encrypted with `use_tls`; any other
        transport is chosen by a URL: `connect("tcp://localhost:8081")`.  Without arguments it
        goes to the URL given to the client.

        Raises ConnectError when no connection comes about within `connect_timeout` (with several
        URLs, within that for each), PluginError when the scheme's package is missing.  With
        `retry_connect` it goes on, unless the error is final.  When cancelled, nothing is left.
        """
        try:
            urls = self._where_to(host, port, use_tls)
            observers = self._observers()
        except MBError:
            await checkpoint()
            raise
        self._gave_up = False
        supervisor = self._supervisor = Supervisor(
            urls, self._callbacks, self._options, self._outbox, self._codec, observers
        )
        self._host.connecting(supervisor)
        self._wake_waiting()
        try:
            await supervisor.open()
        except BaseException:
            self._supervisor = None
            raise

    async def wait_connected(self, timeout: int | None = None) -> None:
        """Wait until there is a connection, at most `timeout` milliseconds; None waits forever.

        Returns at once if there is one.  Otherwise it waits for a `connect` that is under way
        elsewhere or yet to be called, or for a lost connection to be restored.

        Raises TimeoutError when the time is over, and ConnectionLost when the client is closed,
        when its first connection fails or is cancelled, and when a lost one is given up.  When
        cancelled, nothing changes.
        """
        limit = check_timeout(timeout) / 1000 if timeout is not None else None
        await checkpoint()
        supervisor = self._supervisor
        if supervisor is not None:
            supervisor.check_home()
            if supervisor.is_ready():
                return
        try:
            with anyio.fail_after(limit):
                while supervisor is None:
                    if self._gave_up:
                        raise ConnectionLost("not connected: the client was closed", sent=False)
                    await self._wait_begun()
                    supervisor = self._supervisor
                    if supervisor is not None:
                        supervisor.check_home()
                await uninterrupted(supervisor.wait_ready)()
        except TimeoutError:
            why = supervisor.why if supervisor is not None else "connect() was not called"
            reason = f": {why}" if why is not None else ""
            raise TimeoutError(f"no connection within {timeout} ms{reason}") from None

    @property
    def connected(self) -> bool:
        """Whether there is a connection now, with all that was registered and subscribed."""
        supervisor = self._supervisor
        return (
            supervisor is not None
            and supervisor.session.state is SessionState.READY
            and not supervisor.home.forked
        )

    def stats(self) -> ClientStats:
        """Figures of what this client has done so far; see ClientStats."""
        return self._supervisor.stats() if self._supervisor is not None else ClientStats()

    async def close(self) -> None:
        """Close the connection when what has begun is done.

        The broker is told that nothing more is wanted; handlers finish and their answers go
        out, and so does what waits for a connection, all within `drain_timeout`.  Then requests
        that wait fail, and the connection is ended, within a few times `close_timeout`.

        Safe to call twice, from several tasks, and at any time.  Called from a handler or a
        callback of this client, which it would wait for, it returns at once; in a task that one
        has started it waits.  What can't be cancelled, because it waits for a thread, is left
        behind.  When cancelled, it waits for no handler any more, and the closing goes on by
        itself.
        """
        await self._end(drain=True)

    async def __aenter__(self) -> Self:
        supervisor = self._supervisor
        if supervisor is not None and supervisor.closing:
            raise LocalProtocolError(CLOSED)
        if supervisor is not None:
            supervisor.check_home()
        if self._entered:
            raise LocalProtocolError(ENTERED)
        self._entered = True
        try:
            if supervisor is None:
                await self.connect()
            elif not supervisor.opened:
                await self.wait_connected()  # another task connects
        except BaseException:
            self._entered = False
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._supervisor is not None and not self._supervisor.home.forked:
            # A cancelled block does not wait for handlers to finish.
            cancelled = kind is not None and issubclass(kind, anyio.get_cancelled_exc_class())
            await self._end(drain=not (cancelled or interrupted_twice(error)))

    def __del__(self) -> None:
        supervisor = getattr(self, "_supervisor", None)
        if supervisor is not None and supervisor.unclosed:
            supervisor.drop(self)
            self._host.dropped()
            warn_unclosed(self, str(supervisor), self._host.unclosed_remedy)

    async def run(self) -> None:
        """Wait until the client is closed.

        Raises ConnectionLost when the connection is lost for good, and KeyboardInterrupt at Ctrl-C
        and at SIGTERM, so that leaving the client's block drains it, as does
        `except KeyboardInterrupt: await client.close()`.  Behind SIGTERM the program ends as one
        that it has killed, without a traceback where nobody catches the error; a second signal
        ends it at once.  Outside the main thread, and where the program handles a signal itself,
        signals are not touched.
        """
        if self._supervisor is None:
            await self._wait_connecting()
        try:
            supervisor = self._connected()
        except LocalProtocolError:
            await checkpoint()
            raise
        await interruptible(uninterrupted(supervisor.wait_over), supervisor.close)

    # Internals

    async def _end(self, *, drain: bool) -> None:
        self._gave_up = True
        self._wake_waiting()
        try:
            if self._supervisor is not None:
                await self._supervisor.close(drain=drain)
        finally:
            # Closing is over, or goes on by itself: so this may be cancelled.
            await checkpoint()

    def _where_to(self, host: str | None, port: int | None, use_tls: bool) -> list[URL]:
        supervisor = self._supervisor
        if supervisor is not None:
            if not (supervisor.opened or supervisor.closing):
                raise LocalProtocolError(CONNECTING)
            raise LocalProtocolError(CLOSED if supervisor.closing else CONNECTED_ALREADY)
        targets = self._urls if host is None else (host,)
        if not targets:
            raise ConnectError(
                "no address was given: use connect('localhost', 8080) or "
                "MessageBrokerClient('tcp://localhost:8081')",
                final=True,
            )
        scheme = "wss" if use_tls else "ws"
        return [broker_url(target, port, use_tls, scheme) for target in targets]

    def _observers(self) -> Observers | None:
        found = self._options.plugins.observers()
        return Observers(found, self, self._callbacks, self._codec) if found else None

    async def _wait_connecting(self) -> None:
        """Let another task begin to connect, if it is about to."""
        for _ in range(2):  # on trio, one turn may not be enough for it to be called
            await checkpoint()

    async def _wait_begun(self) -> None:
        """Wait until `connect` or `close` is called; when cancelled, nothing changes."""
        event = anyio.Event()
        waiting = (current_backend().poster(), event)
        self._waiting.append(waiting)
        try:
            # Not before: they may be called in another thread.
            if self._supervisor is None and not self._gave_up:
                await event.wait()
            else:
                await checkpoint()
        finally:
            self._waiting.remove(waiting)

    def _wake_waiting(self) -> None:
        for post, event in list(self._waiting):
            post(event.set)

    async def _connected_soon(self) -> Supervisor:
        if self._supervisor is None:
            await self._wait_connecting()
        return self._connected()

    def _connected(self) -> Supervisor:
        supervisor = self._supervisor
        if supervisor is None:
            raise LocalProtocolError("not connected: await client.connect(...) first")
        home = supervisor.home
        if home.running() is not home.loop:
            supervisor.check_home()
        return supervisor
