"""The states of a Session and the moves between them, as data."""

from __future__ import annotations

from enum import Enum

from ..errors import LocalProtocolError

__all__ = ["LIVE", "Move", "SessionState", "after"]


class SessionState(Enum):
    """Where the Session's connection is."""

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
