"""A Link that drops, holds and delays messages; what Faults puts around each Link of a broker."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

import anyio
import msgspec

from mb_core.errors import ConnectionLost, MBError, RemoteProtocolError
from mb_core.link import FLUSH_AT, Accept, Link, LinkHandler, Poster
from mb_core.link.memory import log_bug
from mb_core.message import Message, parse_message
from mb_core.wire import credentials_of

__all__ = ["ActiveFaults", "FaultyLink"]


class ActiveFaults(msgspec.Struct):
    """What happens to the messages of all connections now; `delay` is in seconds."""

    stalled: bool = False
    delay: float = 0.0
    drops: list[Callable[[Message], bool]] = msgspec.field(default_factory=list)
    dropped: int = 0

    def without_dropped(self, messages: list[bytes]) -> list[bytes]:
        """Return the messages that are to pass, and count the others."""
        if not self.drops:
            return messages
        passed = [message for message in messages if not self._drops(message)]
        self.dropped += len(messages) - len(passed)
        return passed

    def _drops(self, data: bytes) -> bool:
        try:
            message = parse_message(data)
        except RemoteProtocolError:
            return False  # garbage has no topic
        return any(drop(message) for drop in self.drops)


_Item = list[bytes] | Callable[[], None]


class _DelayQueue:
    """Messages in one direction, each with the time at which it is to be passed on.

    An item is a list of messages or, as the last one, a function that ends the connection.
    """

    def __init__(
        self,
        faults: ActiveFaults,
        clock: Callable[[], float],
        forward: Callable[[list[bytes]], None],
    ) -> None:
        self.bytes = 0  # of the messages that wait
        self._faults = faults
        self._clock = clock
        self._forward = forward
        self._waiting: deque[tuple[float, _Item]] = deque()

    @property
    def due(self) -> float | None:
        """When the first item is to be passed on."""
        return self._waiting[0][0] if self._waiting and not self._faults.stalled else None

    def put(self, item: _Item) -> None:
        faults = self._faults
        if not faults.stalled and not faults.delay and not self._waiting:
            self._pass_on(item)
            return
        due = self._clock() + faults.delay
        if self._waiting:
            due = max(due, self._waiting[-1][0])  # the delay may have become shorter
        self._waiting.append((due, item))
        if not callable(item):
            self.bytes += sum(map(len, item))

    def pass_on_due(self, now: float) -> None:
        while (due := self.due) is not None and due <= now:
            item = self._waiting.popleft()[1]
            if not callable(item):
                self.bytes -= sum(map(len, item))
            self._pass_on(item)

    def clear(self) -> list[bytes]:
        """Drop what waits, the end included, and return the messages of it."""
        items = [item for _, item in self._waiting if not callable(item)]
        self._waiting.clear()
        self.bytes = 0
        return [message for item in items for message in item]

    def _pass_on(self, item: _Item) -> None:
        if callable(item):
            item()
        else:
            self._forward(item)


class FaultyLink:
    """A Link around an `inner` Link, of which it is the handler.

    While it is stalled, neither side is notified that the other one has ended: this Link may have
    ended while the inner one has not, and the other way round.  `ended` is called when both have,
    `reschedule` when something is due earlier than before.
    """

    def __init__(
        self,
        link: Link,
        faults: ActiveFaults,
        *,
        clock: Callable[[], float],
        post: Poster,
        reschedule: Callable[[], None],
        ended: Callable[[FaultyLink], None],
    ) -> None:
        self.peer = link.peer
        self.credentials = credentials_of(link)
        self.inner = link
        self._faults = faults
        self._post = post
        self._reschedule = reschedule
        self._ended = ended
        self._handler: LinkHandler
        self._incoming = _DelayQueue(faults, clock, self._receive)
        self._outgoing = _DelayQueue(faults, clock, self._send)
        self._open = True  # whether the handler's side may send
        self._progress = 0  # while it is stalled
        self._lost = False  # whether the handler has been notified
        self._inner_lost = False
        self._relieved = anyio.Event()
        self._closed = anyio.Event()

    def open(self, accept: Accept) -> None:
        self._handler = accept(self)

    # What Faults does to it

    @property
    def due(self) -> float | None:
        times = [due for due in (self._incoming.due, self._outgoing.due) if due is not None]
        return min(times, default=None)

    def pass_on_due(self, now: float) -> None:
        """Pass on all messages whose time has come."""
        try:
            self._incoming.pass_on_due(now)
            self._outgoing.pass_on_due(now)
        except Exception as bug:
            log_bug(self.peer, bug)
            self.cut()
        self._relieve()

    def stall(self) -> None:
        """Prepare for being stalled."""
        self._progress = self.progress

    def resume(self, now: float) -> None:
        """Pass on what waited while it was stalled."""
        self.pass_on_due(now)
        if self._lost and not self._inner_lost:
            self.inner.abort()  # the other side sends to a connection that has ended

    def cut(self) -> None:
        """Break the connection: what waits is lost."""
        self._open = False
        self._incoming.clear()
        self._outgoing.clear()
        self.inner.abort()
        self._post(lambda: self._lose(None))

    def put_garbage(self, data: bytes) -> None:
        """Send bytes that are not a message."""
        if self._open:
            self._put(self._outgoing, [data])

    # The Link

    @property
    def congested(self) -> bool:
        return self.inner.congested or self._outgoing.bytes >= FLUSH_AT

    @property
    def unsent(self) -> int:
        return self.inner.unsent + self._outgoing.bytes

    @property
    def messages_sent(self) -> int:
        return self.inner.messages_sent

    @property
    def bytes_sent(self) -> int:
        return self.inner.bytes_sent

    @property
    def progress(self) -> int:
        return self._progress if self._faults.stalled else getattr(self.inner, "progress", 0)

    def send(self, message: bytes) -> None:
        self.send_many([message])

    def send_many(self, messages: list[bytes]) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        passed = self._faults.without_dropped(messages)
        if passed:
            self._put(self._outgoing, passed)

    def take_unsent(self) -> list[bytes]:
        return [*self.inner.take_unsent(), *self._outgoing.clear()]

    async def drain(self) -> None:
        while self.congested and self._open:
            if self.inner.congested:
                await self.inner.drain()
            else:
                await self._relieved.wait()

    def pause_reading(self) -> None:
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        self.inner.resume_reading()

    def close(self, reason: str = "") -> None:
        if self._faults.stalled:
            self.abort()
        elif self._open:
            self._open = False
            self._put(self._outgoing, lambda: self.inner.close(reason))

    def abort(self) -> None:
        self._open = False
        if self._faults.stalled:
            self._post(lambda: self._lose(None))  # the other side is not notified
        else:
            self.inner.abort()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    # The LinkHandler of the inner Link

    def messages_received(self, messages: list[bytes]) -> None:
        passed = self._faults.without_dropped(messages)
        if passed and not self._lost:
            self._put(self._incoming, passed)

    def link_lost(self, error: MBError | None) -> None:
        self._inner_lost = True
        if self._lost:
            self._ended(self)
        elif not self._open:
            self._lose(error)  # we have closed it ourselves: not delayed
        else:
            self._put(self._incoming, lambda: self._lose(error))

    # Internals

    def _put(self, queue: _DelayQueue, item: _Item) -> None:
        queue.put(item)
        if queue.due is not None:
            self._reschedule()

    def _receive(self, messages: list[bytes]) -> None:
        if not self._lost:
            self._handler.messages_received(messages)

    def _send(self, messages: list[bytes]) -> None:
        if not self._inner_lost:
            with contextlib.suppress(ConnectionLost):  # link_lost will say so
                self.inner.send_many(messages)

    def _relieve(self) -> None:
        self._relieved.set()
        self._relieved = anyio.Event()

    def _lose(self, error: MBError | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._open = False
        self._incoming.clear()
        if self._inner_lost:
            self._ended(self)
        self._relieve()
        try:
            self._handler.link_lost(error)
        finally:
            self._closed.set()
