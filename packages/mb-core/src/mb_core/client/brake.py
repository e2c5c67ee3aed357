"""Reports that could come by the thousand, once in a while."""

from __future__ import annotations

import time

__all__ = ["Brake"]

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
