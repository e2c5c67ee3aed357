"""Clients take turns: none holds up the others, however much it asks at once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from mb_core.link import Poster

__all__ = ["RoundRobin"]

T = TypeVar("T")

# Seconds of each turn of the event loop that are spent on the items.
_SHARE = 0.004


class RoundRobin(Generic[T]):
    """Items with more work than fits into one go, each in its turn.

    `take` does a little of the work, and returns whether there is more.  All items together get a
    few milliseconds in each turn of the event loop, however many there are.
    """

    def __init__(self, post: Poster, take: Callable[[T], bool]) -> None:
        self._post = post
        self._take = take
        self._queue: OrderedDict[T, None] = OrderedDict()
        self._posted = False

    def add(self, item: T) -> None:
        self._queue[item] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._posted:
            self._posted = True
            self._post(self._run)

    def _run(self) -> None:
        self._posted = False
        queue = self._queue
        # Real time, whatever the clock of the loop says: it is about the processor's.
        end = time.perf_counter() + _SHARE
        try:
            while queue:
                item, _ = queue.popitem(last=False)
                if self._take(item):
                    queue[item] = None
                if time.perf_counter() >= end:
                    break
        finally:
            if queue:
                self._schedule()
