"""The common parts of Links over byte streams; those of asyncio and trio are subclasses.

This drives a Wire, queues output, and manages how the connection is established and closed. The
subclass reads and writes.

Messages wait in an outbox. The Wire gets them only when they are about to be written, and only as
many as fit into one write: messages in the outbox can be taken back, those given to the Wire can't.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Collection

from ..authenticators import Credentials
from ..errors import ConnectError, ConnectionLost, MBError, RemoteProtocolError
from ..wire import Wire, WireState, credentials_of
from .contract import FLUSH_AT, Accept, Link, LinkHandler, StreamOptions, Waiter
from .sockets import reason_of
from .tls import received_nothing

__all__ = ["Handshakes", "StreamLink", "end_error", "refusal"]

_log = logging.getLogger("mb_core.link")


class StreamLink(Link):
    """The common parts of the Links on all event loops; see `Link`.

    `handshakes` are those of the Listener that accepted the stream; None if it was dialled.
    `opened` is set to None when the handshake is complete, or to the error that ended it.
    """

    peer = "peer"
    messages_sent = 0
    bytes_sent = 0

    def __init__(
        self,
        wire: Wire,
        accept: Accept,
        options: StreamOptions,
        handshakes: Handshakes | None,
        make_waiter: Callable[[], Waiter],
    ) -> None:
        self.opened = make_waiter()
        self._wire = wire
        self._accept = accept
        self._options = options
        self._handshakes = handshakes
        self._handler: LinkHandler | None = None
        # A list is cheapest if everything fits into one write, a deque if there is a backlog.
        self._outbox: list[bytes] | deque[bytes] = []
        self._queued = 0  # bytes in the outbox
        self._received = 0  # bytes
        self._established = False  # whether the handshake is complete
        # Whether the stream is only a probe if it ends before the first byte arrives.
        self._may_be_probe = handshakes is not None
        self._open = False  # whether messages may be sent
        self._eof = False  # whether the other side has ended its half of the stream
        self._aborted = False
        self._fault: Exception | None = None  # the error because of which it was aborted, if any
        self._over = False
        self._make_waiter = make_waiter
        # The waiters of `drain` and `wait_closed`.
        self._draining: dict[Waiter, None] = {}
        self._closing: dict[Waiter, None] = {}

    # The Link

    @property
    def credentials(self) -> Credentials:
        return credentials_of(self._wire)

    def take_unsent(self) -> list[bytes]:
        messages, self._outbox = list(self._outbox), []
        self._queued = 0
        return messages

    async def drain(self) -> None:
        while self.congested and self._open:
            await self._wait_among(self._draining)

    def close(self, reason: str = "") -> None:
        if not self._over:
            self.resume_reading()
            try:
                self._feed_rest()
                self._wire.close(reason)
                self._after_wire()
            except Exception as bug:
                self._give_up(bug)

    async def wait_closed(self) -> None:
        if not self._over:
            await self._wait_among(self._closing)

    # Implemented by subclasses

    @abstractmethod
    def _flush(self) -> None:
        """Write the Wire's output and messages, or let a task do it."""

    @abstractmethod
    def _end_stream(self) -> None:
        """End our half of the stream after the output, because the Wire is CLOSED."""

    @abstractmethod
    def _set_time_limit(self, seconds: float | None) -> None:
        """Call `_timed_out` after this many seconds; replaces an earlier limit, None removes it."""

    def _takes_output(self) -> bool:
        """Whether the stream can still be written to, as far as we know."""
        return True

    # Reading

    def _receive(self, data: bytes) -> None:
        """Pass received data to the Wire, and its messages to the handler."""
        messages = self._wire.receive_data(data)
        if not self._established or self._wire.state is not WireState.OPEN:
            self._after_wire()  # messages that arrived with the close can't be answered any more
        if messages and self._handler is not None:
            self._handler.messages_received(messages)

    def _receive_eof(self) -> None:
        """Handle that the other side has ended its half of the stream."""
        self._eof = True
        if self._handshakes is not None:
            self._feed_rest()  # only a client may end just its half: a server's end closes both
        self._wire.receive_eof()
        self._after_wire()

    def _check_unread(self, answers: int) -> None:
        """Call `unread`, and limit the Wire's own answers, because the other side does not read."""
        options = self._options
        if options.unread is not None:
            options.unread(self)
        if options.max_answers is not None and self._open and answers > options.max_answers:
            self._fault = RemoteProtocolError(
                f"the other side does not read: {answers} bytes of answers to its pings wait for "
                f"it, the limit is {options.max_answers}"
            )
            self.abort()

    # Writing

    def _feed(self, limit: float = FLUSH_AT) -> Collection[bytes]:
        """Pass the Wire, which is OPEN, messages for one write, and return them.

        Takes as many messages as fill `limit` bytes. There must be at least one.
        """
        messages, size = self._outbox, self._queued
        if size < limit or size - len(messages[-1]) < limit:
            self._outbox = []
            self._queued = 0
        else:
            messages, size = self._take_first(limit)
        self.messages_sent += len(messages)
        self.bytes_sent += size
        send = self._wire.send
        for message in messages:
            send(message)
        return messages

    def _take_first(self, limit: float) -> tuple[list[bytes], int]:
        """Take messages from a backlog; return them and their size in bytes."""
        backlog = self._outbox if isinstance(self._outbox, deque) else deque(self._outbox)
        self._outbox = backlog
        messages: list[bytes] = []
        size = 0
        while size < limit:
            messages.append(backlog.popleft())
            size += len(messages[-1])
        self._queued -= size
        return messages, size

    def _feed_rest(self) -> None:
        """Pass all messages to the Wire, which is about to close."""
        if self._outbox and self._open and self._takes_output():
            self._feed(math.inf)

    def _put_back(self, messages: Collection[bytes]) -> None:
        """Undo `_feed`: none of the Wire's output for these messages was or will be written."""
        size = sum(map(len, messages))
        self._outbox = [*messages, *self._outbox]
        self._queued += size
        self.messages_sent -= len(messages)
        self.bytes_sent -= size

    # Opening and closing

    def _after_wire(self) -> None:
        """Handle the Wire's output and changes of its state; call this after every call to it."""
        state = self._wire.state
        if state is WireState.OPEN:
            if not self._established:
                self._establish()
        elif state is not WireState.HANDSHAKE:
            if state is WireState.CLOSED and not self._established:
                self._refuse(self._wire.error)
            if self._open:
                self._open = False
                self._set_time_limit(self._options.close_timeout)
        self._flush()
        if state is WireState.CLOSED:
            self._end_stream()

    def _establish(self) -> None:
        """Handle the completed handshake."""
        self._set_time_limit(None)
        if self._handshakes is not None:
            self._handshakes.discard(self)
        self._established = self._open = True
        self._handler = self._accept(self)
        if not self.opened.done():
            self.opened.set_result(None)

    def _refuse(self, reason: MBError | None) -> None:
        """Fail the handshake, unless it is complete; `reason` is None if the stream just ended."""
        if not self.opened.done():
            if self._handshakes is not None:
                probe = self._may_be_probe and received_nothing(self._wire, self._received)
                refused = self._options.refused or _log_refusal
                refused(self.peer, None if probe else reason)
            self.opened.set_result(refusal(self.peer, reason))

    def abort_handshake(self, reason: ConnectError) -> None:
        """End before the handshake is complete."""
        self._may_be_probe = False
        self._refuse(reason)
        self.abort()

    def _timed_out(self) -> None:
        """Handle a handshake or close that takes too long."""
        options = self._options
        if self._established:
            limit = f"{options.close_timeout:g} s"
            self._fault = TimeoutError(f"the other side did not close it within {limit}")
            self.abort()
        else:
            limit = f"{options.handshake_timeout:g} s"
            text = f"{self.peer} did not complete its handshake in {limit}"
            self.abort_handshake(ConnectError(text))

    def _give_up(self, bug: Exception) -> None:
        self._log_bug(bug)
        self._fault = bug
        self.abort()

    def _log_bug(self, bug: BaseException) -> None:
        _log.error("internal error: dropping the link to %s", self.peer, exc_info=bug)

    def _lost(self, fault: BaseException | None) -> None:
        """Handle the end of the stream; `fault` is the error that broke it."""
        self._open = False
        self._set_time_limit(None)
        if self._handshakes is not None:
            self._handshakes.discard(self)
        self._queued = 0
        self._wake_draining()
        error = end_error(self.peer, self._wire, fault or self._fault, aborted=self._aborted)
        try:
            if self._handler is not None:
                self._handler.link_lost(error)
            else:
                self._refuse(error)
        except Exception as bug:
            self._log_bug(bug)
        finally:
            self._over = True
            _wake(self._closing)

    def _wake_draining(self) -> None:
        """Wake tasks in `drain`: more may be sent, or the connection has ended."""
        _wake(self._draining)

    async def _wait_among(self, waiting: dict[Waiter, None]) -> None:
        waiter = self._make_waiter()
        waiting[waiter] = None
        try:
            await waiter
        finally:
            waiting.pop(waiter, None)  # it is still in the list if it was cancelled


def _wake(waiting: dict[Waiter, None]) -> None:
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)
    waiting.clear()


class Handshakes:
    """A Listener's accepted streams with handshakes in progress, oldest first."""

    def __init__(self, limit: int) -> None:
        self.closed = False
        self._limit = limit
        # Not a dict, which has to skip all removed items to find its first one.
        self._links: OrderedDict[StreamLink, None] = OrderedDict()

    def add(self, link: StreamLink) -> None:
        """Add a stream; at the limit, drop the oldest; if the Listener is closed, drop this one.

        If new ones were refused instead, a few silent streams could keep everyone out.
        """
        if self.closed:
            link.abort()
            return
        if len(self._links) >= self._limit:
            oldest, _ = self._links.popitem(last=False)
            text = f"{oldest.peer} had not completed its handshake when {self._limit} others had "
            oldest.abort_handshake(ConnectError(text + "begun theirs (max_handshakes)"))
        self._links[link] = None

    def discard(self, link: StreamLink) -> None:
        self._links.pop(link, None)

    def close(self) -> None:
        """Drop all of them, and those that are added later."""
        self.closed = True
        for link in list(self._links):
            link.abort()


def end_error(
    peer: str, wire: Wire, fault: BaseException | None, *, aborted: bool
) -> MBError | None:
    """Return why a stream ended, for `link_lost`.

    In this order: an error of the Wire; the fault that broke the stream; an error of the Wire
    because of the end, unless this side has aborted.
    """
    if wire.error is None:
        if fault is not None:
            lost = ConnectionLost(f"the connection to {peer} broke: {reason_of(fault)}", sent=True)
            lost.__cause__ = fault
            return lost
        if not aborted:
            wire.receive_eof()
    return wire.error


def refusal(peer: str, reason: MBError | None) -> ConnectError:
    """Return the error for a failed handshake: the reason, if that is a ConnectError."""
    if isinstance(reason, ConnectError):
        return reason
    return ConnectError(str(reason or f"{peer} closed the connection during the handshake"))


def _log_refusal(peer: str, reason: MBError | None) -> None:
    """Log an accepted stream whose handshake failed; at debug level if it just ended."""
    level = logging.DEBUG if reason is None else logging.WARNING
    _log.log(level, "connection from %s refused: %s", peer, refusal(peer, reason))
