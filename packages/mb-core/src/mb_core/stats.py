"""Figures about what a client has done so far."""

from __future__ import annotations

from collections import deque

import msgspec

__all__ = ["ClientStats", "Latencies", "Latency", "Traffic"]

# The number of requests whose latency is kept.
_REMEMBERED = 1000


class Latency(msgspec.Struct, frozen=True):
    """How long requests took from the call to their answer, in milliseconds.

    Covers the last 1000 answered requests. Failed requests are not included.

    Attributes:
        count: How many requests these figures cover, at most 1000.
        median: Half of them took longer.
        p99: One in a hundred took longer.
        longest: The slowest one.
    """

    count: int
    median: float
    p99: float
    longest: float


class Traffic(msgspec.Struct, frozen=True):
    """Messages and their bytes, in both directions."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.messages_sent + other.messages_sent,
            self.bytes_sent + other.bytes_sent,
            self.messages_received + other.messages_received,
            self.bytes_received + other.bytes_received,
        )


class ClientStats(msgspec.Struct, frozen=True):
    """Statistics of a client since it was created, over all its connections.

    `msgspec.structs.asdict` converts them to a dict.

    Example::

        stats = client.stats()
        print(stats.reconnects, "reconnects,", stats.dropped, "messages dropped")

    Attributes:
        connected: Whether the client is connected now.
        messages_sent: Messages sent.
        bytes_sent: Bytes of these messages, without the transport's framing.
        messages_received: Messages received.
        bytes_received: Bytes of these messages, without the transport's framing.
        pending: Requests that are waiting for their answer now.
        buffered: Publications that are waiting for a connection now.
        buffered_bytes: Bytes of these publications.
        dropped: Received messages that did not fit into the queue of their subscription.
        dropped_publishes: Publications that were dropped because the buffer was full.
        unroutable: Publications without confirmation that had no subscribers.
        late_answers: Answers that came after the time limit of their request.
        reconnects: How often the connection was restored.
        latency: How long requests took; None before the first answer.
    """

    connected: bool = False
    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    pending: int = 0
    buffered: int = 0
    buffered_bytes: int = 0
    dropped: int = 0
    dropped_publishes: int = 0
    unroutable: int = 0
    late_answers: int = 0
    reconnects: int = 0
    latency: Latency | None = None


class Latencies:
    """Collects the latencies of the last requests."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self.add = self._seconds.append

    def summary(self) -> Latency | None:
        if not self._seconds:
            return None
        ordered = sorted(1000 * seconds for seconds in self._seconds)
        return Latency(
            count=len(ordered),
            median=ordered[len(ordered) // 2],
            p99=ordered[(99 * len(ordered)) // 100],
            longest=ordered[-1],
        )
