"""One client's connection, as the broker sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mb_core.errors import MBError
from mb_core.link import Link

from .heartbeats import link_progress
from .registry import Service

__all__ = ["Connection", "memory_of"]

# Bytes of memory overhead per message, and of its slot in a list.
_MESSAGE_OVERHEAD = sys.getsizeof(b"") + 8


class Connection:
    """One client's Link and its Service in the Router; handles the Link's events."""

    def __init__(
        self,
        link: Link,
        service: Service,
        *,
        receive: Callable[[Connection, list[bytes]], None],
        lost: Callable[[Connection, MBError | None], None],
    ) -> None:
        self.link = link
        self.service = service
        service.link = link
        service.progress = link_progress(service)
        self._receive = receive
        self._lost = lost
        self.queue: list[bytes] = []  # messages that are not handled yet
        self.queue_size = 0  # their size in bytes, kept because counting is expensive
        self.stalled = False  # it has to read before we read more from it
        self.cut_off = False
        self.ended = False  # it has left; its earlier messages are still being handled
        self.error: MBError | None = None  # why
        self.unread = 0  # unread bytes at the last check
        # Links of other packages may be older than pause_reading.
        self.can_pause = hasattr(link, "pause_reading")

    @property
    def buffered(self) -> int:
        """Bytes waiting to be sent to it or to be handled."""
        return self.queue_size + (0 if self.cut_off else self.link.unsent)

    @property
    def ready(self) -> bool:
        """Whether messages are waiting that may be handled."""
        return bool(self.queue) and (self.ended or not self.stalled)

    def pause(self) -> None:
        if self.can_pause:
            self.link.pause_reading()

    def resume(self) -> None:
        """Resume reading if everything was handled and the client is not paused."""
        if self.can_pause and not self.queue and not self.stalled:
            self.link.resume_reading()

    def stall(self, unread: int) -> None:
        self.stalled = True
        self.unread = unread
        self.pause()

    def messages_received(self, messages: list[bytes]) -> None:
        self._receive(self, messages)

    def link_lost(self, error: MBError | None) -> None:
        self._lost(self, error)


def memory_of(messages: list[bytes]) -> int:
    """Return the memory that waiting messages take: for tiny ones, many times their length."""
    return sum(map(len, messages)) + _MESSAGE_OVERHEAD * len(messages)
