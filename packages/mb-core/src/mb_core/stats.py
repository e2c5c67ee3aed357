"""What a client has done so far, in figures."""

from __future__ import annotations

from collections import deque

import msgspec

__all__ = ["ClientStats", "Latencies", "Latency", "Traffic"]

# Requests whose latency is remembered.
_REMEMBERED = 1000


class Latency(msgspec.Struct, frozen=True):
    """How long the last requests took from the call to their answer, in milliseconds.

    Of those that were answered, errors not among them; `count` of them, 1000 at most.
    """

    count: int
    median: float
    p99: float
    longest: float


class Traffic(msgspec.Struct, frozen=True):
    """Messages and their bytes, both ways."""

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
    """A client's figures since it was made, over all its connections.

    Bytes are those of whole messages, without the transport's framing.  `pending` requests wait
    for their response now, `buffered` publications for a connection.  `dropped` messages did not
    fit into a subscription's queue; `dropped_publishes` not into the buffer.  `unroutable`
    publications without confirmation reached nobody.  `late_answers` to requests were ready
    after their requester had stopped waiting, or were refused by the broker because of that.
    `latency` is None before the first answer.
    `msgspec.structs.asdict` gives them as a dict.
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
