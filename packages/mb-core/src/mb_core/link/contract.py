"""The contracts between a live connection, its event loop, and the code that uses it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..errors import MBError
from ..wire import Wire

if TYPE_CHECKING:
    import ssl

    from anyio.abc import TaskGroup

__all__ = [
    "FLUSH_AT",
    "Accept",
    "Address",
    "Backend",
    "Link",
    "LinkHandler",
    "Listener",
    "Poster",
    "SocketAddress",
    "Spawn",
    "StreamOptions",
    "Waiter",
    "Waker",
]

FLUSH_AT = 65_536
"""Bytes that are sent in one turn of the loop, at which a Link is congested."""


class LinkHandler(Protocol):
    """Receives what a Link receives.  Called from the event loop, so it must not block.

    An exception in it is a bug: the Link logs it and ends the connection.
    """

    def messages_received(self, messages: list[bytes]) -> None:
        """Take whole messages, in order; never empty, never after `link_lost`."""
        ...

    def link_lost(self, error: MBError | None) -> None:
        """The connection has ended; called exactly once.

        `error` says why.  It is None for an orderly end, whichever side began it, and for `abort`.
        """
        ...


class Link(Protocol):
    """One live connection, on one event loop; used from that loop's thread only."""

    @property
    def peer(self) -> str:
        """The other side, for logs and errors."""
        ...

    @property
    def congested(self) -> bool:
        """Whether `drain` would wait."""
        ...

    @property
    def unsent(self) -> int:
        """Roughly how many bytes were sent and not taken by the operating system yet.

        0 when the connection is over, though there may be messages to take back.
        """
        ...

    @property
    def messages_sent(self) -> int:
        """Messages that were handed to the transport; it grows with each write."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes of those messages, without the transport's framing."""
        ...

    @property
    def progress(self) -> int:
        """A number that changes with every sign of life from the other side.

        It changes with every byte that arrives, even if the message is not complete yet, and with
        every byte that the operating system takes of a write that had to wait.  A write that is
        taken at once says nothing about the other side.  A Link without this attribute counts as
        alive as long as whole messages arrive.
        """
        ...

    def send(self, message: bytes) -> None:
        """Send a message.  Messages of one turn of the loop leave in few writes.

        Raises ConnectionLost with sent=False when the connection is closing or closed.  A
        message sent before that reaches the operating system unless the connection breaks, is
        aborted or is ended by the other side first; see `take_unsent`.
        """
        ...

    def send_many(self, messages: list[bytes]) -> None:
        """Send messages in order, as `send` does.  When it raises, none was taken."""
        ...

    def take_unsent(self) -> list[bytes]:
        """Return the messages that were sent and of which no byte has left this process.

        Call it within `link_lost` or after it.  The messages are the very objects that were
        sent, in order.  Those that the transport got are not among them, as it may have sent a
        part (`close` gives it all of them).  The second call returns an empty list.
        """
        ...

    async def drain(self) -> None:
        """Wait until more may be sent; return at once if the Link is not congested.

        Await it whenever `congested` is true while sending many messages: that bounds memory and
        gives the loop its turn.  A lost connection ends the wait as well.  Safe to cancel.
        """
        ...

    def pause_reading(self) -> None:
        """Stop reading for a while, so that the other side has to stop sending.

        What was received before may still arrive, and `link_lost` may still be called.  Closing
        the connection resumes reading.
        """
        ...

    def resume_reading(self) -> None:
        """Read again; does nothing if reading was not paused or the connection is over."""
        ...

    def close(self, reason: str = "") -> None:
        """Close the connection: what was sent goes out, then the transport's own goodbye.

        That takes at most the close time limit, after which the connection is lost with an error.
        Safe to call at any time, and twice; `link_lost` is called when it is over.
        """
        ...

    def abort(self) -> None:
        """End the connection now, without writing what is left."""
        ...

    async def wait_closed(self) -> None:
        """Wait until `link_lost` has been called."""
        ...


Accept = Callable[[Link], LinkHandler]
"""Returns the handler of a new Link.  Called when the transport's handshake is complete, before
anything is received; from then on, the Link can send."""

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
"""Starts a task that lives as long as the caller's scope."""

Poster = Callable[[Callable[[], None]], bool]
"""Runs a function soon on an event loop; called from any thread.  Functions run in the order in
which they were posted.  Returns False if that loop has ended."""


class Waker(Protocol):
    """The half of a Waiter that gives the value, once."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...


class Waiter(Waker, Protocol):
    """A value that one task waits for: an asyncio.Future, or the same on trio."""

    def __await__(self) -> Generator[Any, Any, Any]: ...


class StreamOptions(msgspec.Struct, frozen=True):
    """How byte streams are opened and closed; times in seconds.

    `server_hostname` is the name that the server's certificate must have, by default the host that
    is dialled.  A Listener has at most `max_handshakes` streams in their handshake: one more ends
    the oldest, since honest peers complete theirs quickly.  `refused` is called for each accepted
    stream that never became a Link, with its peer and the reason, or None if it just ended; the
    default is to log it.  `unread` is called with each Link that receives something while its
    peer does not read what it is sent; the Wire's own answers may add to that.  When more than
    `max_answers` bytes of such answers wait, the connection is given up.
    """

    ssl_context: ssl.SSLContext | None = None
    server_hostname: str | None = None
    handshake_timeout: float = 10.0
    close_timeout: float = 5.0
    max_handshakes: int = 1_000
    refused: Callable[[str, MBError | None], None] | None = None
    unread: Callable[[Link], None] | None = None
    max_answers: int | None = None


Address = tuple[str, int]
"""Host and port."""


class SocketAddress(msgspec.Struct, frozen=True):
    """The address of a stream socket that is not TCP's: what `socket.connect` takes."""

    family: int
    address: Any


class Listener(Protocol):
    """Accepts connections until it is closed; the accepted Links live on.

    Closing it ends handshakes in progress: nothing is accepted after that.
    """

    @property
    def address(self) -> Address:
        """Host and port; for sockets without ports, their name and 0."""
        ...

    async def close(self) -> None: ...


class Backend(Protocol):
    """What mb_core needs of an event loop besides anyio: byte streams as Links, cheap waiting."""

    @property
    def name(self) -> str: ...

    def time(self) -> float:
        """The time in seconds, by the clock of the loop's own timers.

        Compare it only with times of the same loop: another loop has another clock, and a test may
        have a loop with virtual time.
        """
        ...

    def running(self) -> object:
        """What identifies the event loop that runs the caller; None if none of this kind does.

        Called from any thread.
        """
        ...

    def waiter(self) -> Waiter: ...

    def poster(self) -> Poster:
        """A Poster into the running loop."""
        ...

    async def checkpoint(self) -> None:
        """Give the loop a turn; raises if the task was cancelled."""
        ...

    def spawn_root(self, function: Callable[[], Coroutine[Any, Any, None]]) -> object:
        """Start a task that belongs to no scope of the caller's; the end of the loop cancels it.

        `function` must not raise anything but cancellation.  Keep the returned object as long as
        the task has to live: the loop may refer to it weakly.
        """
        ...

    def start_in(self, group: TaskGroup, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start a task in `group`, even from a callback of the loop, outside of any task.

        From a callback, it is not started if the group ends before the loop's next turn.
        """
        ...

    async def connect(
        self,
        address: Address | SocketAddress,
        wire: Wire,
        accept: Accept,
        *,
        options: StreamOptions,
        spawn: Spawn,
    ) -> Link:
        """Open a byte stream, complete the Wire's handshake and return the Link.

        Raises ConnectError.  The caller limits the time.  When cancelled, the stream is closed.
        """
        ...

    async def listen(
        self,
        address: Address | socket.socket,
        wire: Callable[[], Wire],
        accept: Accept,
        *,
        options: StreamOptions,
        spawn: Spawn,
    ) -> Listener:
        """Accept byte streams; port 0 asks for a free port.  Raises ConnectError.

        A socket in place of an address is listening already; the Listener closes it.
        A connection whose handshake fails or takes too long is closed and logged.
        """
        ...
