"""Many deadlines, one timer: a heap whose owner asks for the next time and for what is due."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T")

# Below this many entries, sweeping out cancelled ones is not worth the pass.
_SWEEP_FROM = 64


class Deadlines(Generic[T]):
    """Items by the time at which they are due, in the units of its owner's clock.

    Most deadlines never come: the answer arrives first.  So discarding or replacing one only
    leaves its place in the heap, which is swept when more than half of it is such places:
    constant cost on average, and memory in proportion to what is really waiting.
    """

    __slots__ = ("_due", "_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        # An item's number tells its live place in the heap from places it has left.
        self._due: dict[T, int] = {}
        self._order = itertools.count()

    def add(self, item: T, when: float) -> None:
        """Set the deadline of `item`, in place of the one that it had."""
        number = next(self._order)
        replaced = item in self._due
        self._due[item] = number
        heapq.heappush(self._heap, (when, number, item))
        if replaced:
            self._sweep()

    def discard(self, item: T) -> None:
        """Forget the deadline of `item`, if it has one."""
        if self._due.pop(item, None) is not None:
            self._sweep()

    def next(self) -> float | None:
        """The time at which something is due next, or None."""
        heap = self._heap
        while heap and self._due.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> list[T]:
        """Take out what is due at `now`, the earliest first."""
        due: list[T] = []
        while (when := self.next()) is not None and when <= now:
            item = heapq.heappop(self._heap)[2]
            del self._due[item]
            due.append(item)
        return due

    def _sweep(self) -> None:
        heap = self._heap
        if len(heap) > _SWEEP_FROM and len(heap) > 2 * len(self._due):
            self._heap = [entry for entry in heap if self._due.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)
