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
from ..options import ClientOptions, check_options
from ..session import Outbox, SessionState
from ..signals import interrupted_twice, interruptible, uninterrupted
from ..stats import ClientStats
from ..url import URL, broker_url
from ..user_code import check_handler
from .callbacks import Callbacks, Handlers
from .observers import Observers
from .queue import MessageQueue
from .runner import Runner
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

CONNECTING = "this client is already connecting: wait with client.wait_connected()"
CONNECTED_ALREADY = "this client was already connected: create a new one"
CLOSED = "this client was closed and can't be used again: create a new one"
ENTERED = (
    "this client is in a 'with' block already, whose end closes it: use it there as it is, "
    "without another block"
)
_CALLBACKS = frozenset({"on_message", "on_connect", "on_disconnect", "on_error"})


class CallbackMethods:
    """Base class of clients whose `on_*` methods register callbacks and can't be assigned to."""

    if not TYPE_CHECKING:  # otherwise type checkers would accept any attribute

        def __setattr__(self, name: str, value: object) -> None:
            if name in _CALLBACKS:
                raise LocalProtocolError(
                    f"{name} is a method, and assigning to it registers nothing: call "
                    f"client.{name}(handler)"
                )
            super().__setattr__(name, value)


class Host:
    """What a client leaves to the front end that runs it. This one is for its own event loop.

    A front end overrides what is different; see `mb_core.hosted_client`. A host must not refer to
    its client, except weakly: a client is closed when nothing else refers to it.

    Attributes:
        queue_type: The class of the queues of subscriptions.
        unclosed_remedy: What a warning about an unclosed client suggests.
    """

    queue_type: type[MessageQueue] = MessageQueue
    unclosed_remedy = "'async with MessageBrokerClient(...) as client' or 'await client.close()'"

    def post(self, function: Callable[[], object]) -> object:
        """Call `function` in the client's event loop. Called in any thread."""
        return function()

    def check_handler(self, handler: Any, name: str = "handler") -> None:
        """Raise LocalProtocolError for a handler that can't be called."""
        check_handler(handler, name)

    def wrap_callback(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return what to call for a callback, plain or async."""
        return handler

    def make_runner(
        self,
        queue: MessageQueue,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> Runner:
        """Return the Runner that calls a subscription's handler."""
        return Runner(queue, handler, topic, concurrency, callbacks)

    def connecting(self, supervisor: Supervisor) -> None:
        """Called when the client begins to connect for the first time."""

    def dropped(self) -> None:
        """Called, in any thread, when nothing refers to the client, which was not closed."""


class Lifecycle(CallbackMethods):
    """The methods of MessageBrokerClient about its connection."""

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
        # Tasks that wait for a connect to begin, perhaps on other event loops.
        self._waiting: list[tuple[Poster, anyio.Event]] = []
        self._gave_up = False  # whether it was closed since the last connect

    async def connect(
        self, host: str | None = None, port: int | None = None, use_tls: bool = False
    ) -> None:
        """Connect to the broker.

        Without arguments, this connects to the URL that was passed to the client.
        `connect("localhost", 8080)` uses WebSocket. Pass a URL for other transports:
        `connect("tcp://localhost:8081")`.

        Args:
            host: A host name, an address, or a URL.
            port: The port, if `host` is not a URL.
            use_tls: Whether to encrypt the WebSocket, if `host` is not a URL.

        Raises:
            ConnectError: No connection was established within `connect_timeout`, which applies to
                each URL. With `retry_connect`, this is raised only if the error is final or
                `reconnect_timeout` has passed.
            PluginError: The transport of the URL is not installed or can't be used.
            LocalProtocolError: The client was connected or closed before, or is connecting.

        If cancelled, the client is not connected, and `connect` may be called again.
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
        """Wait until the client is connected.

        Returns at once if it is. Otherwise, waits until another task has connected it, even if that
        task has not called `connect` yet, or until a lost connection is restored.

        Args:
            timeout: Time limit in milliseconds; None to wait forever.

        Raises:
            TimeoutError: The time limit has passed.
            ConnectionLost: The client was closed, could not connect, or gave up reconnecting.
            LocalProtocolError: The time limit is invalid.

        If cancelled, nothing changes.
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
        """Whether the client is connected, registered and subscribed."""
        supervisor = self._supervisor
        return (
            supervisor is not None
            and supervisor.session.state is SessionState.READY
            and not supervisor.home.forked
        )

    @property
    def user(self) -> str | None:
        """The user as which the client has authenticated; None without a token.

        It is set when the client is connected, and may change with its token when it reconnects.
        """
        return self._supervisor.user if self._supervisor is not None else None

    def stats(self) -> ClientStats:
        """Return statistics about what this client has done so far."""
        return self._supervisor.stats() if self._supervisor is not None else ClientStats()

    async def close(self) -> None:
        """Finish pending work, and close the connection.

        Within `drain_timeout`, the client unsubscribes, handlers finish the queued messages and
        send their answers, and buffered messages are sent. Then pending requests fail with
        `ConnectionLost`, and the connection is closed, which can take a few times `close_timeout`.

        Safe to call twice, from several tasks, and at any time. In a handler or callback of this
        client, it returns at once, because it would otherwise wait for itself. A handler that can't
        be cancelled because it waits for a thread is abandoned.

        If cancelled, the client stops waiting for handlers and closes in the background.
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

        Use it in services: Ctrl-C and SIGTERM raise `KeyboardInterrupt` here. If this error leaves
        the client's block, pending requests are finished before the client closes. The same happens
        if you catch it and call `close`. After SIGTERM, the program ends as if the signal had
        killed it, without a traceback. A second signal ends it at once.

        Signals are left alone outside the main thread, and if the program handles them itself.

        Raises:
            ConnectionLost: The connection is lost for good.
            KeyboardInterrupt: The program received SIGINT (Ctrl-C) or SIGTERM.
            LocalProtocolError: The client is not connected.
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
            # Closing has finished, or continues in the background, so this may be cancelled.
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
        for target in targets:
            check_options(host=target, use_tls=use_tls)
        return [broker_url(target, port, use_tls, scheme) for target in targets]

    def _observers(self) -> Observers | None:
        found = self._options.plugins.observers()
        return Observers(found, self, self._callbacks, self._codec) if found else None

    async def _wait_connecting(self) -> None:
        """Let another task start connecting, if it is about to."""
        for _ in range(2):  # on trio, one turn may not be enough for the call
            await checkpoint()

    async def _wait_begun(self) -> None:
        """Wait until `connect` or `close` is called; when cancelled, nothing changes."""
        event = anyio.Event()
        waiting = (current_backend().poster(), event)
        self._waiting.append(waiting)
        try:
            # Not earlier: they may be called in another thread.
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
