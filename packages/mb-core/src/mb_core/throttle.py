"""Limit the rate of reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

import msgspec

from .cache import BoundedCache

__all__ = ["Tally", "Throttle"]

# Seconds between two reports of the same thing.
_EVERY = 1.0
# The most things that are distinguished; all are forgotten when there are more.
_REMEMBERED = 1024
# Reports of a Tally per second.
_AT_ONCE = 32


class Throttle:
    """Allows one report of each thing per second."""

    __slots__ = ("_reported",)

    def __init__(self) -> None:
        self._reported: BoundedCache[str, float] = BoundedCache(_REMEMBERED)

    def allow(self, thing: str = "") -> bool:
        """Whether `thing` may be reported now."""
        now = time.monotonic()
        before = self._reported.get(thing)
        if before is not None and now - before < _EVERY:
            return False
        self._reported[thing] = now
        return True


class Tally:
    """Counts things that may happen very often, and reports the counts at a limited rate.

    The first of a kind is reported at once, later ones at most once a second, so that the last
    report has the total. At most `_AT_ONCE` reports are made per second for all kinds; the others
    wait. If there are too many kinds, the extra ones share one entry: some of them are reported,
    each as if it were the only one. Times are from the owner's clock, in seconds.
    """

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}
        self._untold: dict[Hashable, _Kind] = {}
        self._others = _Kind(counts=False)
        self._second = float("-inf")  # when the present one began
        self._told = 0  # reports in it
        self._forgot = float("-inf")  # when it last checked what to forget

    def add(self, kind: Hashable, report: Callable[[int], object], now: float) -> None:
        """Count one more of `kind`; `report` is called with their number so far."""
        entry = self._kinds.get(kind)
        if entry is None:
            if len(self._kinds) >= _REMEMBERED and not self._forget(now):
                kind, entry = _OTHERS, self._others
            else:
                entry = self._kinds[kind] = _Kind()
        entry.count += 1
        entry.report = report
        if now >= entry.due and self._may_tell(now):
            self._untold.pop(kind, None)
            entry.tell(now)
        else:
            self._untold[kind] = entry

    @property
    def waiting(self) -> bool:
        """Whether something has to be reported."""
        return bool(self._untold)

    def next(self) -> float | None:
        """When the next report is due, if at all."""
        due = min((entry.due for entry in self._untold.values()), default=None)
        if due is not None and self._told >= _AT_ONCE:
            return max(due, self._second + _EVERY)
        return due

    def report(self, now: float) -> None:
        """Make the reports that are due."""
        for kind, entry in list(self._untold.items()):
            if now >= entry.due and self._may_tell(now):
                del self._untold[kind]
                entry.tell(now)

    # Within

    def _may_tell(self, now: float) -> bool:
        """Return whether one more report fits into this second, and count it."""
        if now - self._second >= _EVERY:
            self._second, self._told = now, 0
        self._told += 1
        return self._told <= _AT_ONCE or now == float("inf")

    def _forget(self, now: float) -> bool:
        """Forget kinds whose last report is a second old; return whether there is room."""
        if now - self._forgot < _EVERY:
            return False
        self._forgot = now
        for kind, entry in list(self._kinds.items()):
            if kind not in self._untold and now >= entry.due:
                del self._kinds[kind]
        return len(self._kinds) < _REMEMBERED


_OTHERS = object()


class _Kind(msgspec.Struct):
    """How often it happened, and when it may be reported again."""

    count: int = 0
    due: float = float("-inf")
    report: Callable[[int], object] | None = None
    counts: bool = True  # whether its reports are about one thing, so that the number is meaningful

    def tell(self, now: float) -> None:
        self.due = now + _EVERY
        report, self.report = self.report, None  # it holds the error that it reports
        if report is not None:
            report(self.count if self.counts else 1)
