"""Let clients take turns, so that none delays the others, however much it requests."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from mb_core.link import Poster

__all__ = ["RoundRobin"]

T = TypeVar("T")

# Seconds that are spent on the items in each turn of the event loop.
_SHARE = 0.004


class RoundRobin(Generic[T]):
    """Items with more work than can be done at once, handled alternately.

    `take` does some of the work, and returns whether there is more. All items together get a few
    milliseconds in each turn of the event loop, however many there are.
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
        # Real time, not the loop's clock, because this limits the use of the processor.
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
