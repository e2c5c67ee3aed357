"""Counts and latencies of the last minute, in memory that does not grow with the traffic."""

from __future__ import annotations

from collections import Counter, deque

__all__ = ["RATE_SPAN", "SPAN", "Window"]

SPAN = 60
"""Seconds that errors and latencies are remembered for."""

RATE_SPAN = 5
"""Seconds over which a rate is the mean."""

# A latency is kept with this many leading bits: to 1.6 % of its value.
_PRECISION = 7


class _Second:
    """What happened within one second of the clock."""

    __slots__ = ("count", "errors", "latencies", "number", "unheard")

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0
        self.errors = 0
        self.unheard = 0
        self.latencies: Counter[int] = Counter()


class Window:
    """A sliding window over events; `now` is in seconds, of a clock that never goes back.

    Latencies are whole milliseconds.  The window holds one record a second and, in each, one
    number for each latency that differs by more than 1.6 %.
    """

    __slots__ = ("_errors", "_first", "_latencies", "_seconds", "_unheard")

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque()
        self._first: int | None = None
        self._errors = 0
        self._unheard = 0
        self._latencies: Counter[int] = Counter()

    def count(self, now: float) -> None:
        """One more event."""
        self._at(now).count += 1

    def error(self, now: float, count: int = 1) -> None:
        """So many more errors."""
        self._at(now).errors += count
        self._errors += count

    def add_unheard(self, now: float) -> None:
        """One more of them reached nobody."""
        self._at(now).unheard += 1
        self._unheard += 1

    def latency(self, now: float, milliseconds: int) -> None:
        """Something took this long."""
        rounded = _rounded(milliseconds)
        self._at(now).latencies[rounded] += 1
        self._latencies[rounded] += 1

    def rate(self, now: float) -> float:
        """Events a second: the mean of the last whole seconds, RATE_SPAN of them at most."""
        second = int(now)
        if self._first is None:
            return 0.0
        if self._first == second:
            return float(sum(each.count for each in self._seconds))
        span = min(RATE_SPAN, second - self._first)
        # The newest stand last, and only few of them are looked at.
        total = 0
        for each in reversed(self._seconds):
            if each.number < second - span:
                break
            if each.number < second:
                total += each.count
        return total / span

    def errors(self, now: float) -> int:
        """Errors within the last SPAN seconds."""
        self._expire(int(now))
        return self._errors

    def unheard(self, now: float) -> int:
        """Those that reached nobody within the last SPAN seconds."""
        self._expire(int(now))
        return self._unheard

    def percentiles(self, now: float, *shares: float) -> tuple[int, ...] | None:
        """Latencies in milliseconds below which these shares (0..1) of all lie, in rising order.

        None where nothing was measured within the last SPAN seconds.
        """
        self._expire(int(now))
        total = self._latencies.total()
        if not total:
            return None
        wanted = deque(max(1, -int(-share * total // 1)) for share in shares)
        found = []
        seen = 0
        for value in sorted(self._latencies):
            seen += self._latencies[value]
            while wanted and seen >= wanted[0]:
                found.append(value)
                wanted.popleft()
        return tuple(found)

    def is_idle(self, now: float) -> bool:
        """Whether nothing happened within the last SPAN seconds."""
        self._expire(int(now))
        return not self._seconds

    # Within

    def _at(self, now: float) -> _Second:
        number = int(now)
        seconds = self._seconds
        if seconds and seconds[-1].number == number:
            return seconds[-1]
        self._expire(number)
        if self._first is None:
            self._first = number
        second = _Second(number)
        seconds.append(second)
        return second

    def _expire(self, number: int) -> None:
        seconds = self._seconds
        while seconds and seconds[0].number <= number - SPAN:
            gone = seconds.popleft()
            self._errors -= gone.errors
            self._unheard -= gone.unheard
            self._latencies -= gone.latencies  # Counter drops what falls to 0


def _rounded(milliseconds: int) -> int:
    value = max(0, milliseconds)
    shift = max(0, value.bit_length() - _PRECISION)
    return value >> shift << shift
