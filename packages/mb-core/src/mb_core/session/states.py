"""Where a Session is in its life: states, the moves between them as data, and every other flag.

Whatever decides what a Session may do at a moment is here.
"""

from __future__ import annotations

from enum import Enum

from ..errors import ConnectionLost, LocalProtocolError

__all__ = ["LIVE", "Move", "SessionState", "SessionStatus", "after"]


class SessionState(Enum):
    """The state of a Session's connection."""

    OFFLINE = "not connected yet"
    GREETING = "waiting for the broker's greeting"
    RESTORING = "telling the broker what it is to know"
    READY = "connected"
    LOST = "the connection is lost"
    CLOSED = "closed"


class Move(Enum):
    LINK_UP = "a link comes up"
    INITIALIZED = "the broker greets"
    RESTORED = "the broker knows all"
    LINK_LOST = "the link is lost"
    CLOSE = "the session is closed"


LIVE = frozenset({SessionState.GREETING, SessionState.RESTORING, SessionState.READY})
"""The states in which there is a Link."""

_GREETED = frozenset({SessionState.RESTORING, SessionState.READY})

_MOVES: dict[tuple[SessionState, Move], SessionState] = {
    (SessionState.OFFLINE, Move.LINK_UP): SessionState.GREETING,
    (SessionState.LOST, Move.LINK_UP): SessionState.GREETING,
    (SessionState.GREETING, Move.INITIALIZED): SessionState.RESTORING,
    (SessionState.RESTORING, Move.RESTORED): SessionState.READY,
    **{(state, Move.LINK_LOST): SessionState.LOST for state in LIVE},
    (SessionState.CLOSED, Move.LINK_LOST): SessionState.CLOSED,
    **{(state, Move.CLOSE): SessionState.CLOSED for state in SessionState},
}


def after(state: SessionState, move: Move) -> SessionState:
    """The state that `move` leads to; raises LocalProtocolError where there is no such move."""
    reached = _MOVES.get((state, move))
    if reached is None:
        raise LocalProtocolError(f"{move.value} while the session is: {state.value}")
    return reached


class SessionStatus:
    """The state of a Session, and the flags that go with it.

    With `waits_early`, what would wait for the next connection waits for the first one as well.
    """

    __slots__ = ("_closed_because", "_may_wait", "_timeouts_asked", "settled_at", "state")

    def __init__(self, *, waits_early: bool) -> None:
        self.state = SessionState.OFFLINE
        # Whether messages may wait for a connection: from the first one on, or from the start.
        self._may_wait = waits_early
        # Why it was closed, the first time.
        self._closed_because: str | None = None
        # Whether the present connection's broker was asked to pass time limits on.
        self._timeouts_asked = False
        # Until when services may still be on their way back, after a reconnect: a request that
        # nobody answers may be sent again until then.
        self.settled_at: float | None = None

    def link_up(self) -> None:
        self._move(Move.LINK_UP)
        self._timeouts_asked = False

    def initialized(self) -> None:
        self._move(Move.INITIALIZED)

    def restored(self, settled_at: float | None) -> None:
        self._move(Move.RESTORED)
        self._may_wait = True
        self.settled_at = settled_at

    def link_lost(self) -> None:
        self._move(Move.LINK_LOST)

    def close(self, reason: str) -> None:
        self._move(Move.CLOSE)
        if self._closed_because is None:
            self._closed_because = reason

    def _move(self, move: Move) -> None:
        self.state = after(self.state, move)

    @property
    def greeted(self) -> bool:
        """Whether there is a Link whose broker has greeted."""
        return self.state in _GREETED

    def ask_for_timeouts(self) -> bool:
        """Whether to ask the broker for time limits now: once for each connection."""
        if self._timeouts_asked or not self.greeted:
            return False
        self._timeouts_asked = True
        return True

    def check_waiting(self) -> None:
        """Raise if nothing can wait for a connection: there was none yet, or will be none."""
        if self.state is SessionState.CLOSED:
            raise ConnectionLost(f"not sent: {self._closed_because}", sent=False)
        if not self._may_wait:
            raise LocalProtocolError(
                f"nothing can be sent while {self.state.value}, before the first connection: "
                "wait for client.connect(...) first (retry_connect=True lets calls wait)"
            )
