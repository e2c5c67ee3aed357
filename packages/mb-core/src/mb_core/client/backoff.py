"""How long to wait before the next try: exponential, with full jitter."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Waits of a random length, in seconds, whose bound doubles from `shortest` to `longest`.

    Full jitter: anything from nothing to the bound, so that a thousand clients which lost one
    broker do not come back as one.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._bound = 0.0

    def next(self) -> float:
        """How long to wait now."""
        self._bound = min(self._longest, self._bound * 2 or self._shortest)
        return random.uniform(0.0, self._bound)

    def lasted(self, seconds: float) -> None:
        """A connection came about and lasted so long: begin anew, unless that was too short.

        One that ends as soon as it is there must not be tried again without a wait.
        """
        if seconds > self._bound:
            self._bound = 0.0
