"""The life of a Session: states, the moves between them as data, and all other flags.

Everything that decides what a Session may do is here.
"""

from __future__ import annotations

from enum import Enum

from ..errors import ConnectionLost, LocalProtocolError

__all__ = ["LIVE", "Move", "SessionState", "SessionStatus", "after"]


class SessionState(Enum):
    """The state of a Session's connection."""

    OFFLINE = "not connected yet"
    GREETING = "waiting for the broker's greeting"
    RESTORING = "restoring subscriptions and the registration"
    READY = "connected"
    LOST = "the connection is lost"
    CLOSED = "closed"


class Move(Enum):
    LINK_UP = "a link is up"
    INITIALIZED = "the broker greets"
    RESTORED = "everything is restored"
    LINK_LOST = "the link is lost"
    CLOSE = "the session is closed"


LIVE = frozenset({SessionState.GREETING, SessionState.RESTORING, SessionState.READY})
"""The states with a Link."""

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
    """Return the next state after `move`; raises LocalProtocolError for an invalid move."""
    reached = _MOVES.get((state, move))
    if reached is None:
        raise LocalProtocolError(f"{move.value} while the session is: {state.value}")
    return reached


class SessionStatus:
    """The state of a Session, and its flags.

    With `waits_early`, messages that would wait for the next connection also wait for the first.
    """

    __slots__ = ("_closed_because", "_may_wait", "_timeouts_asked", "settled_at", "state")

    def __init__(self, *, waits_early: bool) -> None:
        self.state = SessionState.OFFLINE
        # Whether messages may wait for a connection: after the first one, or from the start.
        self._may_wait = waits_early
        # Why it was first closed.
        self._closed_because: str | None = None
        # Whether the current broker was asked to pass on time limits.
        self._timeouts_asked = False
        # Until then, services may still be reconnecting after an outage, so a request that nobody
        # answers is sent again.
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
        """Whether there is a Link and the broker's greeting has arrived."""
        return self.state in _GREETED

    def ask_for_timeouts(self) -> bool:
        """Whether to ask the broker for time limits now: once for each connection."""
        if self._timeouts_asked or not self.greeted:
            return False
        self._timeouts_asked = True
        return True

    def check_waiting(self) -> None:
        """Raise if nothing can wait for a connection, before the first one and after closing."""
        if self.state is SessionState.CLOSED:
            raise ConnectionLost(f"not sent: {self._closed_because}", sent=False)
        if not self._may_wait:
            raise LocalProtocolError(
                f"nothing can be sent while {self.state.value}, before the first connection: "
                "wait for client.connect(...) first (retry_connect=True lets calls wait)"
            )
