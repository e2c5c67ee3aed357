"""The buffer for messages that wait for a connection: publications, up to a size, and requests."""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import Literal

from ..errors import ConnectionLost, LocalProtocolError
from .requests import PendingRequest

__all__ = ["DEFAULT_BUFFER", "BufferOverflow", "BufferOverflowName", "Outbox"]

DEFAULT_BUFFER = 8 * 1024 * 1024
"""How many bytes of publications can wait for a connection by default."""


class BufferOverflow(StrEnum):
    """What happens to a publication when the buffer is full.

    The values can be passed as strings: `MessageBrokerClient(url, buffer_overflow="drop_oldest")`.
    """

    ERROR = "error"
    """`publish` raises `ConnectionLost`."""
    DROP_OLDEST = "drop_oldest"
    """The oldest publications without `confirm` are dropped to make room."""


BufferOverflowName = Literal["error", "drop_oldest"]


class Outbox:
    """Messages that wait for a connection, in the order in which to send them.

    Requests don't count towards the size, as each has a deadline and a caller that waits for it.

    Args:
        size: How many bytes of publications can wait, including headers; 0 for none.
        overflow: What happens to a publication that does not fit, a `BufferOverflow`.

    Raises:
        LocalProtocolError: The size or the overflow is invalid.

    Attributes:
        size: How many bytes of publications can wait.
        used: How many bytes of publications are waiting.
        dropped: How many publications were dropped.
        overflow: What happens to a publication that does not fit.
    """

    __slots__ = (
        "_anonymous",
        "_anonymous_used",
        "_confirmed",
        "_next",
        "_requests",
        "dropped",
        "overflow",
        "size",
        "used",
    )

    def __init__(
        self, size: int = DEFAULT_BUFFER, overflow: str = BufferOverflow.ERROR.value
    ) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise LocalProtocolError(
                f"invalid publish_buffer {size!r}: expected a number of bytes, or 0 for no buffer"
            )
        try:
            self.overflow = BufferOverflow(overflow)
        except ValueError:
            choices = ", ".join(repr(choice.value) for choice in BufferOverflow)
            raise LocalProtocolError(
                f"invalid buffer_overflow {overflow!r}: one of {choices}"
            ) from None
        self.size = size
        self.used = 0
        self.dropped = 0
        self._next = 0
        # By key, in sending order. Publications that nobody waits for are separate: the oldest of
        # them make room, even if many of the others are older.
        self._anonymous: OrderedDict[int, bytes] = OrderedDict()
        self._anonymous_used = 0
        self._confirmed: dict[int, PendingRequest] = {}
        self._requests: dict[int, PendingRequest] = {}

    def __len__(self) -> int:
        """Return how many publications are waiting."""
        return len(self._anonymous) + len(self._confirmed)

    @property
    def requests(self) -> list[PendingRequest]:
        """The requests that are waiting, in order."""
        return list(self._requests.values())

    def add_publication(self, message: bytes | PendingRequest) -> None:
        """Add a publication at the end.

        With `drop_oldest`, the oldest publications without `confirm` are dropped to make room.

        Raises:
            ConnectionLost: It does not fit; `sent` is False.
        """
        length = len(_bytes_of(message))
        if self.overflow is BufferOverflow.DROP_OLDEST and length <= self.size:
            self._make_room(length)
        self._check(length)
        self.put_back(message)

    def check_room(self, length: int, before: int) -> None:
        """Raise what `add_publication` would raise after `before` bytes of other publications."""
        if length > self.size or self.overflow is not BufferOverflow.DROP_OLDEST:
            self._check(before + length)

    def _check(self, length: int) -> None:
        if self.used + length > self.size:
            raise ConnectionLost(
                f"not published: there is no connection, and the buffer of {self.size} bytes "
                "is full (publish_buffer, buffer_overflow)"
                if self.size
                else "not published: there is no connection (publish_buffer=0 holds nothing)",
                sent=False,
            )

    def put_back(self, message: bytes | PendingRequest) -> None:
        """Add a publication even if it does not fit, as its publisher relies on it."""
        key = self._new_key(message)
        if isinstance(message, PendingRequest):
            self._confirmed[key] = message
        else:
            self._anonymous[key] = message
            self._anonymous_used += len(message)
        self.used += len(_bytes_of(message))

    def add_request(self, request: PendingRequest) -> None:
        """Add a request at the end."""
        self._requests[self._new_key(request)] = request

    def discard(self, request: PendingRequest) -> None:
        """Remove a message that nothing waits for any more, if it is here."""
        key, request.outbox_key = request.outbox_key, None
        if key is not None and self._requests.pop(key, None) is None:
            del self._confirmed[key]
            self.used -= len(request.message)

    def take_all(self) -> list[bytes | PendingRequest]:
        """Remove all messages, and return them in order."""
        merged: dict[int, bytes | PendingRequest] = {
            **self._anonymous,
            **self._confirmed,
            **self._requests,
        }
        items = [merged[key] for key in sorted(merged)]
        self._anonymous.clear()
        self._confirmed.clear()
        self._requests.clear()
        self.used = self._anonymous_used = 0
        for item in items:
            if isinstance(item, PendingRequest):
                item.outbox_key = None
        return items

    def _new_key(self, message: bytes | PendingRequest) -> int:
        self._next += 1
        if isinstance(message, PendingRequest):
            message.outbox_key = self._next
        return self._next

    def _make_room(self, length: int) -> None:
        """Drop the oldest publications that nobody waits for, or none if that is not enough."""
        if self.used - self._anonymous_used + length > self.size:
            return
        while self.used + length > self.size:
            _, message = self._anonymous.popitem(last=False)
            self._anonymous_used -= len(message)
            self.used -= len(message)
            self.dropped += 1


def _bytes_of(message: bytes | PendingRequest) -> bytes:
    return message if isinstance(message, bytes) else message.message
