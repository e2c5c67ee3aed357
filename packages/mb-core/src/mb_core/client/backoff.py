"""How long to wait before the next try: exponential, with equal jitter."""

from __future__ import annotations

import random

__all__ = ["Backoff"]

_STABLE = 1.0
"""Seconds after which a connection counts as a good one."""


class Backoff:
    """Waits of a random length, in seconds, whose bound doubles from `shortest` to `longest`.

    The first wait is anything up to `shortest`, so most losses are over before anybody notices.
    From the second on, half the bound is fixed and half is random: clients that lost one broker
    are still spread out, and none of them uses up its tries in the first moments of an outage, as
    it may with full jitter.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._bound = 0.0

    def next(self) -> float:
        """Return how long to wait now."""
        if not self._bound:
            self._bound = self._shortest
            return random.uniform(0.0, self._bound)
        self._bound = min(self._longest, self._bound * 2)
        return random.uniform(self._bound / 2, self._bound)

    def lasted(self, seconds: float) -> None:
        """Take into account how long a connection lasted: after a good one, the waits start over.

        A broker that accepts connections and ends them at once is tried less and less often.
        """
        if seconds >= _STABLE:
            self._bound = 0.0
