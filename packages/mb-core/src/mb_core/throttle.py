"""Reports that could come by the thousand, once in a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

import msgspec

from .cache import BoundedCache

__all__ = ["Tally", "Throttle"]

# Seconds between two reports of one thing.
_EVERY = 1.0
# Things that are told apart; forgotten together when there are more.
_REMEMBERED = 1024
# Reports of a Tally in a second.
_AT_ONCE = 32


class Throttle:
    """Lets one report of each thing through in a second."""

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
    """Counts what may happen by the thousand, and reports how often it has, once in a while.

    The first of a kind is reported at once, the following ones at most once a second, so that the
    last report has the whole count.  Of all kinds together no more than `_AT_ONCE` are reported in
    a second; the others wait for their turn.  When there are too many kinds to tell them apart,
    those that come on top are one: some of it is reported, each as if it were alone.
    Times are those of its owner's clock, in seconds.
    """

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}
        self._untold: dict[Hashable, _Kind] = {}
        self._others = _Kind(counts=False)
        self._second = float("-inf")  # when the present one began
        self._told = 0  # reports in it
        self._forgot = float("-inf")  # when it last looked what may be forgotten

    def add(self, kind: Hashable, report: Callable[[int], object], now: float) -> None:
        """Count one more of `kind`; `report` is called with the number of them so far."""
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
        """Whether something is to be reported."""
        return bool(self._untold)

    def next(self) -> float | None:
        """When something is to be reported next, if at all."""
        due = min((entry.due for entry in self._untold.values()), default=None)
        if due is not None and self._told >= _AT_ONCE:
            return max(due, self._second + _EVERY)
        return due

    def report(self, now: float) -> None:
        """Report what is due."""
        for kind, entry in list(self._untold.items()):
            if now >= entry.due and self._may_tell(now):
                del self._untold[kind]
                entry.tell(now)

    # Within

    def _may_tell(self, now: float) -> bool:
        """Whether one more report fits into this second; counts it."""
        if now - self._second >= _EVERY:
            self._second, self._told = now, 0
        self._told += 1
        return self._told <= _AT_ONCE or now == float("inf")

    def _forget(self, now: float) -> bool:
        """Make room for other kinds, where the last time is a second ago; whether there is some."""
        if now - self._forgot < _EVERY:
            return False
        self._forgot = now
        for kind, entry in list(self._kinds.items()):
            if kind not in self._untold and now >= entry.due:
                del self._kinds[kind]
        return len(self._kinds) < _REMEMBERED


_OTHERS = object()


class _Kind(msgspec.Struct):
    """How often it has happened, and from when on that may be reported again."""

    count: int = 0
    due: float = float("-inf")
    report: Callable[[int], object] | None = None
    counts: bool = True  # whether its reports are of one thing, so that the number says something

    def tell(self, now: float) -> None:
        self.due = now + _EVERY
        report, self.report = self.report, None  # it holds the error that it reports
        if report is not None:
            report(self.count if self.counts else 1)
