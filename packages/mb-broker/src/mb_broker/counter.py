"""A number that only grows, and its rate."""

from __future__ import annotations

__all__ = ["Counter"]


class Counter:
    """A number that only grows, and its growth in the last whole second.

    Seconds are whole numbers from the caller's clock; no timer is needed.
    """

    __slots__ = ("_before", "_count", "_second", "total")

    def __init__(self) -> None:
        self.total = 0
        self._second = 0
        self._count = 0  # within _second
        self._before = 0  # within the second before it

    def add(self, second: int, count: int = 1) -> None:
        self.total += count
        if second != self._second:
            self._before = self.rate(second)
            self._second = second
            self._count = 0
        self._count += count

    def rate(self, second: int) -> int:
        """Return what was added in the second before `second`."""
        if second == self._second:
            return self._before
        return self._count if second == self._second + 1 else 0
