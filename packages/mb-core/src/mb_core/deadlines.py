"""Many deadlines with one timer: the owner asks for the next time and for the items due."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T")

# Below this many entries, removing cancelled ones is not worth a pass.
_SWEEP_FROM = 64


# When it is due, its number, and the item.
_Slot = tuple[float, int, T]


class Deadlines(Generic[T]):
    """Items by the time at which they are due, by the owner's clock.

    Most deadlines are set in the order in which they are due, since time limits are alike: these
    wait in a queue, and the others in a heap.  Most never pass, as the answer arrives first: so
    discarding or replacing one only abandons its slot, and slots are swept when more than half
    of them are abandoned.  The cost is constant on average, and memory is proportional to what is
    really waiting.
    """

    __slots__ = ("_due", "_heap", "_order", "_queue")

    def __init__(self) -> None:
        self._queue: deque[_Slot[T]] = deque()
        self._heap: list[_Slot[T]] = []
        # An item's number tells its live slot from abandoned ones.
        self._due: dict[T, int] = {}
        self._order = itertools.count()

    def add(self, item: T, when: float) -> None:
        """Set the deadline of `item`, replacing the one that it had."""
        number = next(self._order)
        replaced = item in self._due
        self._due[item] = number
        queue = self._queue
        if not queue or queue[-1][0] <= when:
            queue.append((when, number, item))
        else:
            heapq.heappush(self._heap, (when, number, item))
        if replaced:
            self._sweep()

    def discard(self, item: T) -> None:
        """Remove the deadline of `item`, if it has one."""
        if self._due.pop(item, None) is not None:
            self._sweep()

    def next(self) -> float | None:
        """Return the time at which something is due next, or None."""
        first = self._first()
        return first[0] if first is not None else None

    def pop_due(self, now: float) -> list[T]:
        """Remove and return what is due at `now`, the earliest first."""
        due: list[T] = []
        while (first := self._first()) is not None and first[0] <= now:
            due.append(first[2])
            del self._due[first[2]]  # this abandons its slot
        if due:
            self._sweep()
        return due

    def _first(self) -> _Slot[T] | None:
        """Return the slot of what is due next, and remove the abandoned ones before it."""
        queue, heap, due = self._queue, self._heap, self._due
        while queue and due.get(queue[0][2]) != queue[0][1]:
            queue.popleft()
        while heap and due.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        if queue and heap:
            return min(queue[0], heap[0])  # no two have one number: items are not compared
        if queue:
            return queue[0]
        return heap[0] if heap else None

    def _sweep(self) -> None:
        slots = len(self._queue) + len(self._heap)
        if slots > _SWEEP_FROM and slots > 2 * len(self._due):
            self._queue = deque(filter(self._is_live, self._queue))
            self._heap = list(filter(self._is_live, self._heap))
            heapq.heapify(self._heap)

    def _is_live(self, slot: _Slot[T]) -> bool:
        return self._due.get(slot[2]) == slot[1]
