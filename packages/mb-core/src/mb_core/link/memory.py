"""A pair of Links in memory, possibly on two event loops in two threads."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import deque
from enum import Enum

import anyio

from ..errors import ConnectionLost, MBError, MessageTooLarge
from ..wire import Limits
from .contract import FLUSH_AT, Accept, Backend, LinkHandler, Poster

__all__ = ["MemoryLink", "log_bug", "loop_poster"]

_log = logging.getLogger("mb_core.link")


class _State(Enum):
    NEW = "new"
    OPEN = "open"
    CLOSING = "closing"
    LOST = "lost"


class MemoryLink:
    """One end of a pair.  Its methods run in its own thread; only `other` reads its output.

    To create a pair, set each end's `other`, then call each end's `open` in its own thread.

    Messages wait in `output`, from which the other end takes them in its own thread; a None after
    them is the farewell.  The end that takes messages out holds the lock, also when this end takes
    them back: so each message goes to one of them, and what was sent is counted once.
    """

    other: MemoryLink
    # These belong to the event loop of this end, which may differ from the one that creates it.
    _handler: LinkHandler
    _relieved: anyio.Event
    _closed: anyio.Event

    def __init__(self, post: Poster, limits: Limits, peer: str) -> None:
        self.peer = peer
        self.congested = False
        self.messages_sent = 0
        self.bytes_sent = 0
        self.progress = 0
        self.output: deque[bytes | None] = deque()
        self.lock = threading.Lock()
        self.post = post
        # Whether the other end was notified of output. It resets this before it checks, so it is
        # notified again of later additions.
        self.notified = False
        self._limits = limits
        self._queued = 0
        self._paused = False
        self._state = _State.NEW
        self._ends_in_order = False  # the other end receives everything that was sent
        self._unsent: list[bytes] = []

    def open(self, accept: Accept) -> None:
        """Open this end; raises what `accept` raises, and then closes the other end."""
        self._relieved = anyio.Event()
        self._closed = anyio.Event()
        self._state = _State.OPEN
        try:
            self._handler = accept(self)
        except BaseException:
            self._closed.set()
            self.refuse()
            raise

    def refuse(self) -> None:
        """Refuse the connection: closes the other end."""
        self._state = _State.LOST
        self._say_farewell()

    # The Link

    @property
    def unsent(self) -> int:
        return self._queued

    @property
    def has_ended(self) -> bool:
        """Whether there is a farewell, which the other end takes even while it is paused."""
        try:
            return self.output[-1] is None
        except IndexError:
            return False

    def send(self, message: bytes) -> None:
        if self._state is not _State.OPEN:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued += len(message)
        self.congested = self._queued >= FLUSH_AT
        self.output.append(message)
        if not self.notified:
            self._notify()

    def send_many(self, messages: list[bytes]) -> None:
        if self._state is not _State.OPEN:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued += sum(map(len, messages))
        self.congested = self._queued >= FLUSH_AT
        self.output.extend(messages)
        if messages and not self.notified:
            self._notify()

    def take_unsent(self) -> list[bytes]:
        self._take_back()
        messages, self._unsent = self._unsent, []
        return messages

    async def drain(self) -> None:
        while self.congested and self._state is _State.OPEN:
            await self._relieved.wait()

    def pause_reading(self) -> None:
        self._paused = self._state is _State.OPEN

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self.post(self.take)

    def close(self, reason: str = "") -> None:
        self.resume_reading()
        if self._state is _State.OPEN:
            self._ends_in_order = True
            self.abort()

    def abort(self) -> None:
        if self._state is _State.OPEN:
            self._state = _State.CLOSING
            self._take_back()
            self._say_farewell()
            self.post(lambda: self._lose(None))

    async def wait_closed(self) -> None:
        await self._closed.wait()

    # Between the ends

    def _say_farewell(self) -> None:
        self.output.append(None)
        if not self.notified:
            self._notify()

    def _notify(self) -> None:
        self.notified = True
        if not self.other.post(self.other.take) and self._state is _State.OPEN:
            # Its event loop has ended. Not reported here, because this is the user's call.
            self._state = _State.CLOSING
            error = ConnectionLost(f"{self.peer} has ended", sent=True)
            self.post(lambda: self._lose(error))

    def take(self) -> None:
        """Receive what the other end has sent."""
        other = self.other
        other.notified = False
        if self._state is _State.LOST:
            return  # the other end took it back
        if self._paused and not other.has_ended:
            return
        messages: list[bytes] = []
        ended = False
        error: MBError | None = None
        with other.lock:
            while other.output and not ended:
                item = other.output.popleft()
                if item is None:
                    ended = True
                elif len(item) > self._limits.max_message:
                    ended, error = True, _too_large(len(item), self._limits.max_message)
                else:
                    messages.append(item)
            # Counted here: an answer to them may be received before `relieve` is called.
            taken = sum(map(len, messages))
            other.messages_sent += len(messages)
            other.bytes_sent += taken
        if messages:
            self.progress += len(messages) + taken
            other.post(lambda: other.relieve(taken))
            try:
                self._handler.messages_received(messages)
            except Exception as bug:
                log_bug(self.peer, bug)
                ended = True
                error = ConnectionLost(f"the connection to {self.peer} broke: {bug!r}", sent=True)
                error.__cause__ = bug
        if ended:
            if error is None:
                self.abort()  # the other end accepts no more
            else:
                self.close()
            self._lose(error)

    def _take_back(self) -> None:
        if self._ends_in_order:
            return
        with self.lock:
            items = list(self.output)
            self.output.clear()
            self._unsent += [item for item in items if item is not None]
            if None in items:
                self.output.append(None)

    def relieve(self, taken: int) -> None:
        """Note that the other end has taken this many bytes."""
        if self._state is _State.LOST:
            return
        self._queued -= taken
        if self.congested:
            self.progress += taken
        if self.congested and self._queued < FLUSH_AT:
            self.congested = False
            self._relieved.set()
            self._relieved = anyio.Event()

    def _lose(self, error: MBError | None) -> None:
        if self._state is not _State.LOST:
            self._state = _State.LOST
            self._queued = 0
            self._closed.set()
            self._relieved.set()
            try:
                self._handler.link_lost(error)
            except Exception as bug:
                log_bug(self.peer, bug)


def loop_poster(backend: Backend) -> Poster:
    """Return the loop's Poster, for functions that run in the context of the calling task.

    Without this they would run in the context of the thread that posts them, where anyio would
    find that thread's event loop.
    """
    post, context = backend.poster(), contextvars.copy_context()
    return lambda function: post(lambda: context.run(function))


def log_bug(peer: str, error: Exception) -> None:
    _log.error("internal error: dropping the link to %s", peer, exc_info=error)


def _too_large(size: int, limit: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"a message of {size} bytes came, the limit is {limit}", size=size, limit=limit
    )
