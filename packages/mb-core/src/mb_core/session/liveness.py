"""Whether the other side is alive: a question after silence, and a limit for its answer."""

from __future__ import annotations

from enum import Enum

__all__ = ["Liveness", "Sign"]


class Sign(Enum):
    """What is to be done when the time has come."""

    NOTHING = "nothing: something was heard"
    ASK = "ask for a sign of life"
    DEAD = "give the connection up"


class Liveness:
    """Looks once each `interval` seconds whether anything was heard, or has moved.

    `progress` is the Link's: it changes with every byte that arrives, and with every byte that
    leaves after it had to wait, so a message that takes long does not pass for silence.

    After an interval of silence it asks, after another it gives up: a connection whose other
    side has gone without a word is found within three intervals of the last.  An `interval` of
    None never looks.
    """

    __slots__ = ("_asked", "_progress", "heard", "interval", "look_at")

    def __init__(self, interval: float | None) -> None:
        self.interval = interval
        self.look_at: float | None = None
        # Set when something arrives: one assignment for each batch of messages, and no clock.
        self.heard = False
        self._asked = False
        self._progress = 0

    def start(self, now: float, progress: int = 0) -> None:
        self._progress = progress
        if self.interval is not None:
            self.look_at = now + self.interval
            self.heard = self._asked = False

    def stop(self) -> None:
        self.look_at = None

    def look(self, now: float, progress: int = 0) -> Sign:
        """To be called when the time of `look_at` has come, or later."""
        if self.look_at is None or self.interval is None or now < self.look_at:
            return Sign.NOTHING
        late = now - self.look_at
        self.look_at = now + self.interval
        if self.heard or progress != self._progress:
            self._progress = progress
            self.heard = self._asked = False
            return Sign.NOTHING
        if not self._asked:
            self._asked = True
            return Sign.ASK
        if late > self.interval / 2:
            # We were not there to hear it: the program has kept its event loop busy.
            return Sign.NOTHING
        self.look_at = None
        return Sign.DEAD
