"""What a byte-stream Link has to send: an outbox before its Wire.

The Wire gets messages when they are about to be written, and no more of them than one write is to
have: a message that it was given can't be taken back, one in the outbox can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from ..wire import Wire
from .contract import FLUSH_AT

__all__ = ["Outgoing"]


class Outgoing:
    """The sending half that the Links of all event loops have in common."""

    def __init__(self, wire: Wire) -> None:
        self.messages_sent = 0
        self.bytes_sent = 0
        self._wire = wire
        # A list is cheapest where all leaves in one write; a deque, where there is a backlog.
        self._outbox: list[bytes] | deque[bytes] = []
        self._queued = 0  # bytes in the outbox

    def take_unsent(self) -> list[bytes]:
        messages, self._outbox = list(self._outbox), []
        self._queued = 0
        return messages

    def _feed(self, limit: float = FLUSH_AT) -> Collection[bytes]:
        """Give the Wire, which is OPEN, messages for one write; returns them.

        They are as many as it takes to fill `limit` bytes; there has to be one.
        """
        messages, size = self._outbox, self._queued
        if size < limit or size - len(messages[-1]) < limit:
            self._outbox = []
            self._queued = 0
        else:
            messages, size = self._first(limit)
        self.messages_sent += len(messages)
        self.bytes_sent += size
        send = self._wire.send
        for message in messages:
            send(message)
        return messages

    def _first(self, limit: float) -> tuple[list[bytes], int]:
        """Take messages of the backlog, and how many bytes they have."""
        backlog = self._outbox if isinstance(self._outbox, deque) else deque(self._outbox)
        self._outbox = backlog
        messages: list[bytes] = []
        size = 0
        while size < limit:
            messages.append(backlog.popleft())
            size += len(messages[-1])
        self._queued -= size
        return messages, size

    def _put_back(self, messages: Collection[bytes]) -> None:
        """Undo `_feed`: nothing of what the Wire made of them was written, or will be."""
        size = sum(map(len, messages))
        self._outbox = [*messages, *self._outbox]
        self._queued += size
        self.messages_sent -= len(messages)
        self.bytes_sent -= size
