"""Close frames: the reason in one, and whether it reports an error."""

from __future__ import annotations

from websockets.frames import Close, CloseCode

__all__ = ["close_reason", "is_abnormal"]

# A close frame's reason has at most 123 bytes.
_MAX_REASON = 123


def close_reason(reason: str) -> str:
    """Return as much of a reason as fits into a close frame."""
    return reason.encode()[:_MAX_REASON].decode(errors="ignore")


def is_abnormal(close: Close | None) -> bool:
    """Return whether the other side has closed the connection because of an error."""
    return close is not None and close.code not in (
        CloseCode.NORMAL_CLOSURE,
        CloseCode.GOING_AWAY,
        CloseCode.NO_STATUS_RCVD,
    )
