"""Counts and latencies of the last minute, in memory that is independent of the traffic."""

from __future__ import annotations

from collections import Counter, deque
from typing import Literal

__all__ = ["RATE_SPAN", "SPAN", "Kind", "Window"]

SPAN = 60
"""Seconds for which events and latencies are kept."""

RATE_SPAN = 5
"""Seconds over which rates are averaged."""

Kind = Literal["message", "error", "unheard"]
"""What is counted; `unheard` are publications that reached nobody."""

# Latencies are rounded to this many leading bits: to within 1.6 %.
_PRECISION = 7


class Window:
    """A sliding window over events; `now` is a monotonic clock, in seconds.

    Latencies are whole milliseconds. The window holds one record per second, with one counter per
    kind, and one for each rounded latency.
    """

    __slots__ = ("_first", "_seconds", "_total")

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Counter[Kind | int]]] = deque()
        self._total: Counter[Kind | int] = Counter()
        self._first: int | None = None

    def add(self, now: float, kind: Kind, count: int = 1) -> None:
        """Count events of this kind."""
        self._add(int(now), kind, count)

    def add_latency(self, now: float, milliseconds: int) -> None:
        """Count a latency."""
        value = max(0, milliseconds)
        shift = max(0, value.bit_length() - _PRECISION)
        self._add(int(now), value >> shift << shift, 1)

    def count(self, now: float, kind: Kind) -> int:
        """Return how many events of this kind there were within the last SPAN seconds."""
        self._expire(int(now))
        return self._total[kind]

    def rate(self, now: float) -> float:
        """Return messages per second, averaged over up to RATE_SPAN whole seconds."""
        second = int(now)
        if self._first is None:
            return 0.0
        if self._first == second:
            return float(self._total["message"])
        span = min(RATE_SPAN, second - self._first)
        # The newest are last, and only those few matter.
        total = 0
        for number, counts in reversed(self._seconds):
            if number < second - span:
                break
            if number < second:
                total += counts["message"]
        return total / span

    def percentiles(self, now: float, *shares: float) -> tuple[int, ...] | None:
        """Return the latencies in milliseconds at these quantiles (0..1, in ascending order).

        None if nothing was measured in the last SPAN seconds.
        """
        self._expire(int(now))
        latencies = sorted(value for value in self._total if isinstance(value, int))
        total = sum(self._total[value] for value in latencies)
        if not total:
            return None
        wanted = deque(max(1, -int(-share * total // 1)) for share in shares)
        found = []
        seen = 0
        for value in latencies:
            seen += self._total[value]
            while wanted and seen >= wanted[0]:
                found.append(value)
                wanted.popleft()
        return tuple(found)

    def is_idle(self, now: float) -> bool:
        """Return whether nothing happened within the last SPAN seconds."""
        self._expire(int(now))
        return not self._seconds

    def _add(self, second: int, key: Kind | int, count: int) -> None:
        if not self._seconds or self._seconds[-1][0] != second:
            self._expire(second)
            if self._first is None:
                self._first = second
            self._seconds.append((second, Counter()))
        self._seconds[-1][1][key] += count
        self._total[key] += count

    def _expire(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - SPAN:
            self._total -= self._seconds.popleft()[1]  # Counter drops what falls to 0
