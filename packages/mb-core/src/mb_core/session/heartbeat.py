"""The heartbeat: a request after silence, and a time limit for the answer."""

from __future__ import annotations

from enum import Enum

__all__ = ["Heartbeat", "HeartbeatAction"]


class HeartbeatAction(Enum):
    """What to do after a check."""

    NOTHING = "nothing: something was received"
    ASK = "send a heartbeat request"
    GIVE_UP = "drop the connection"


class Heartbeat:
    """Checks once each `interval` seconds whether anything was received, or has moved.

    `progress` is the Link's: it changes with every byte that arrives, and with every byte that
    leaves after it had to wait, so a large message does not look like silence.

    After an interval of silence it asks the other side, after another it gives up: a connection
    whose other side has vanished is found within three intervals.  With an `interval` of None, it
    never checks.
    """

    __slots__ = ("_asked", "_progress", "interval", "next_check", "received")

    def __init__(self, interval: float | None) -> None:
        self.interval = interval
        self.next_check: float | None = None
        # Set when something arrives: a single assignment for each batch of messages, without a
        # clock.
        self.received = False
        self._asked = False
        self._progress = 0

    def start(self, now: float, progress: int = 0) -> None:
        self._progress = progress
        if self.interval is not None:
            self.next_check = now + self.interval
            self.received = self._asked = False

    def stop(self) -> None:
        self.next_check = None

    def check(self, now: float, progress: int = 0) -> HeartbeatAction:
        """Call this when the time of `next_check` has come, or later."""
        if self.next_check is None or self.interval is None or now < self.next_check:
            return HeartbeatAction.NOTHING
        late = now - self.next_check
        self.next_check = now + self.interval
        if self.received or progress != self._progress:
            self._progress = progress
            self.received = self._asked = False
            return HeartbeatAction.NOTHING
        if not self._asked:
            self._asked = True
            return HeartbeatAction.ASK
        if late > self.interval / 2:
            # We could not have received it: the program kept its event loop busy.
            return HeartbeatAction.NOTHING
        self.next_check = None
        return HeartbeatAction.GIVE_UP
