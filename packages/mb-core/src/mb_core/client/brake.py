"""Reports that could come by the thousand, once in a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

import msgspec

__all__ = ["Brake", "Tally"]

# Seconds between two reports of one thing.
_EVERY = 1.0
# Things that are told apart; forgotten together when there are more.
_REMEMBERED = 1024


class Brake:
    """Lets one report of each thing through in a second."""

    __slots__ = ("_reported",)

    def __init__(self) -> None:
        self._reported: dict[str, float] = {}

    def lets(self, thing: str = "") -> bool:
        """Whether `thing` may be reported now."""
        now = time.monotonic()
        before = self._reported.get(thing)
        if before is not None and now - before < _EVERY:
            return False
        if len(self._reported) >= _REMEMBERED:
            self._reported.clear()
        self._reported[thing] = now
        return True


class Tally:
    """Counts what may happen by the thousand, and reports how often it has, once in a while.

    The first of a kind is reported at once, the following ones at most once a second, so that the
    last report has the whole count.  Times are those of its owner's clock, in seconds.
    """

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}
        self._untold: dict[Hashable, _Kind] = {}

    def add(self, kind: Hashable, report: Callable[[int], object], now: float) -> None:
        """Count one more of `kind`; `report` is called with the number of them so far."""
        entry = self._kinds.get(kind)
        if entry is None:
            if len(self._kinds) >= _REMEMBERED:
                self.report(float("inf"))
                self._kinds.clear()
            entry = self._kinds[kind] = _Kind()
        entry.count += 1
        entry.report = report
        if now >= entry.due:
            self._untold.pop(kind, None)
            entry.tell(now)
        else:
            self._untold[kind] = entry

    def next(self) -> float | None:
        """When something is to be reported next, if at all."""
        return min((entry.due for entry in self._untold.values()), default=None)

    def report(self, now: float) -> None:
        """Report what is due."""
        for kind, entry in list(self._untold.items()):
            if now >= entry.due:
                del self._untold[kind]
                entry.tell(now)


class _Kind(msgspec.Struct):
    """How often it has happened, and from when on that may be reported again."""

    count: int = 0
    due: float = float("-inf")
    report: Callable[[int], object] | None = None

    def tell(self, now: float) -> None:
        self.due = now + _EVERY
        report, self.report = self.report, None  # it holds the error that it reports
        if report is not None:
            report(self.count)
