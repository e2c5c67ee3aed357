"""How long to wait before the next try: exponential, with equal jitter."""

from __future__ import annotations

import random

__all__ = ["Backoff"]

_STABLE = 1.0
"""Seconds after which a connection counts as stable."""


class Backoff:
    """Random waits in seconds, whose upper bound doubles from `shortest` to `longest`.

    The first wait is up to `shortest`, so most losses are short. From the second wait on, half the
    bound is fixed and half is random. This spreads out the clients of a broker, and none of them
    uses up its tries at the start of an outage, as could happen with full jitter.
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
        """Take into account how long a connection lasted: after a stable one, the waits start over.
        A broker that accepts connections and closes them at once is tried less and less often.
        """
        if seconds >= _STABLE:
            self._bound = 0.0
