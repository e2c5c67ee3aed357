"""A Link that loses, holds and delays messages, as it is told; what Faults puts around a Link."""

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

__all__ = ["FaultyLink", "Trouble"]


class Trouble(msgspec.Struct):
    """What happens to the messages of all connections; `delay` in seconds."""

    stalled: bool = False
    delay: float = 0.0
    drops: list[Callable[[Message], bool]] = msgspec.field(default_factory=list)
    dropped: int = 0

    def let_through(self, messages: list[bytes]) -> list[bytes]:
        """Those that are not dropped."""
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


class _Lane:
    """One direction: what waits in it, with the time at which it may go on.

    Items are messages, and behind them the end, a function that is called when it is its turn.
    """

    def __init__(
        self, trouble: Trouble, clock: Callable[[], float], forward: Callable[[list[bytes]], None]
    ) -> None:
        self.bytes = 0  # that wait
        self._trouble = trouble
        self._clock = clock
        self._forward = forward
        self._waiting: deque[tuple[float, _Item]] = deque()

    @property
    def due(self) -> float | None:
        """When something is to go on."""
        return self._waiting[0][0] if self._waiting and not self._trouble.stalled else None

    def put(self, item: _Item) -> None:
        trouble = self._trouble
        if not trouble.stalled and not trouble.delay and not self._waiting:
            self._pass_on(item)
            return
        due = self._clock() + trouble.delay
        if self._waiting:
            due = max(due, self._waiting[-1][0])  # the delay may have become shorter
        self._waiting.append((due, item))
        if not callable(item):
            self.bytes += sum(map(len, item))

    def move(self, now: float) -> None:
        """Let go on what is due."""
        while (due := self.due) is not None and due <= now:
            item = self._waiting.popleft()[1]
            if not callable(item):
                self.bytes -= sum(map(len, item))
            self._pass_on(item)

    def clear(self) -> list[bytes]:
        """Take out what waits; an end goes with it."""
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
    """A Link, and the handler of the Link within it.

    While it is stalled, neither side learns of the other's end: the handler's side may have ended
    while the Link within goes on, and the other way round.  `forgotten` is called when both have.
    `look` is to be called when something has to go on at another time than before.
    """

    def __init__(
        self,
        link: Link,
        trouble: Trouble,
        *,
        clock: Callable[[], float],
        post: Poster,
        look: Callable[[], None],
        forgotten: Callable[[FaultyLink], None],
    ) -> None:
        self.peer = link.peer
        self.inner = link
        self._trouble = trouble
        self._post = post
        self._look = look
        self._forgotten = forgotten
        self._handler: LinkHandler
        self._in = _Lane(trouble, clock, self._receive)
        self._out = _Lane(trouble, clock, self._send)
        self._open = True  # whether the handler's side may send
        self._progress = 0  # while it is stalled
        self._lost = False  # whether the handler has been told
        self._inner_lost = False
        self._relieved = anyio.Event()
        self._closed = anyio.Event()

    def be_open(self, accept: Accept) -> None:
        self._handler = accept(self)

    # What Faults does to it

    @property
    def due(self) -> float | None:
        times = [due for due in (self._in.due, self._out.due) if due is not None]
        return min(times, default=None)

    def move(self, now: float) -> None:
        """Let go on what is due."""
        try:
            self._in.move(now)
            self._out.move(now)
        except Exception as bug:
            log_bug(self.peer, bug)
            self.cut()
        self._relieve()

    def stall(self) -> None:
        """It is about to be stalled."""
        self._progress = self.progress

    def resume(self, now: float) -> None:
        """It is stalled no longer."""
        self.move(now)
        if self._lost and not self._inner_lost:
            self.inner.abort()  # as one that is spoken to by a side that was long gone

    def cut(self) -> None:
        """Break it: what waits is lost."""
        self._open = False
        self._in.clear()
        self._out.clear()
        self.inner.abort()
        self._post(lambda: self._lose(None))

    def put_garbage(self, data: bytes) -> None:
        """Send bytes that are not a message."""
        if self._open:
            self._put(self._out, [data])

    # The Link

    @property
    def congested(self) -> bool:
        return self.inner.congested or self._out.bytes >= FLUSH_AT

    @property
    def unsent(self) -> int:
        return self.inner.unsent + self._out.bytes

    @property
    def messages_sent(self) -> int:
        return self.inner.messages_sent

    @property
    def bytes_sent(self) -> int:
        return self.inner.bytes_sent

    @property
    def progress(self) -> int:
        return self._progress if self._trouble.stalled else getattr(self.inner, "progress", 0)

    def send(self, message: bytes) -> None:
        self.send_many([message])

    def send_many(self, messages: list[bytes]) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        passed = self._trouble.let_through(messages)
        if passed:
            self._put(self._out, passed)

    def take_unsent(self) -> list[bytes]:
        return [*self.inner.take_unsent(), *self._out.clear()]

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
        if self._trouble.stalled:
            self.abort()
        elif self._open:
            self._open = False
            self._put(self._out, lambda: self.inner.close(reason))

    def abort(self) -> None:
        self._open = False
        if self._trouble.stalled:
            self._post(lambda: self._lose(None))  # the other side is not told
        else:
            self.inner.abort()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    # The LinkHandler of the Link within

    def messages_received(self, messages: list[bytes]) -> None:
        passed = self._trouble.let_through(messages)
        if passed and not self._lost:
            self._put(self._in, passed)

    def link_lost(self, error: MBError | None) -> None:
        self._inner_lost = True
        if self._lost:
            self._forgotten(self)
        elif not self._open:
            self._lose(error)  # our own doing, of which we hear at once
        else:
            self._put(self._in, lambda: self._lose(error))

    # Within

    def _put(self, lane: _Lane, item: _Item) -> None:
        lane.put(item)
        if lane.due is not None:
            self._look()

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
        self._in.clear()
        if self._inner_lost:
            self._forgotten(self)
        self._relieve()
        try:
            self._handler.link_lost(error)
        finally:
            self._closed.set()
