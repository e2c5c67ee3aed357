"""The log of the websockets library, without secrets."""

from __future__ import annotations

import logging

from websockets.frames import Frame, Opcode

__all__ = ["log"]

_SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization")
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)

# websockets logs each frame at DEBUG and each close at INFO: not our users' log.
log = logging.getLogger("mb_ws.websockets")
log.setLevel(logging.WARNING)


def _hide_secrets(record: logging.LogRecord) -> bool:
    """Hide the values of headers, and the content of messages, which may have a token."""
    record.exc_info = None  # the error of an invalid header shows its value
    args = record.args
    if isinstance(args, tuple):
        if len(args) == 2 and str(args[0]).lower() in _SECRET_HEADERS:
            record.args = (args[0], "***")
        elif args and isinstance(args[0], Frame) and args[0].opcode in _DATA:
            frame = args[0]
            record.args = (f"{frame.opcode.name} [{len(frame.data)} bytes]",)
    return True


log.addFilter(_hide_secrets)
