"""The broker's log: written to the standard library's logging and to the feed `system.log`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mb_core.codec import encode_payload
from mb_core.errors import LocalProtocolError, timestamp_now
from mb_core.ids import IdSource
from mb_core.message import handling, parse_message

from .log_filter import LEVELS, LogFilter, read_log_filter
from .registry import Service

__all__ = ["LOGGED_MESSAGE_ID", "LogFeed"]

# How many kinds of events are remembered before those of earlier seconds are forgotten.
_MAX_CAUSES = 1_000
_HEADER = b"response:system.log:1.0.0\n"

LOGGED_MESSAGE_ID = IdSource().next()
"""The parent id of messages that are sent while logging an entry about a single message."""
_LOGGED_MESSAGE = parse_message(b"publish:mb.logged:1.0.0:%b\n" % LOGGED_MESSAGE_ID)


class LogFeed:
    """Writes entries to the logger `mb_broker.MODULE`, and sends them to the services that follow.

    Services get the levels that they asked for, independent of the logger's level. Entries that a
    client can cause by the thousand have a `cause`: for each cause, one entry per second is logged,
    and the next one says how many were left out.
    """

    def __init__(self, send: Callable[[Service, bytes], None]) -> None:
        self._send = send
        # By cause: the second of the last entry, and how many were left out since.
        self._causes: dict[str, tuple[int, int]] = {}
        self._filters: dict[Service, LogFilter] = {}
        self._follows_debug = False  # whether any service follows debug entries
        self._logs_debug = logging.getLogger("mb_broker.router").isEnabledFor

    @property
    def wants_debug(self) -> bool:
        """Whether debug entries are wanted; there is one for each forwarded message."""
        return self._follows_debug or self._logs_debug(logging.DEBUG)

    @property
    def followed(self) -> bool:
        """Whether any service follows the log."""
        return bool(self._filters)

    def follow(self, service: Service, levels: Any, regex: Any) -> None:
        """Start sending entries to `service`; the filter replaces an earlier one.

        Raises InvalidRequestError, with the reason in its details.
        """
        self._filters[service] = read_log_filter(levels, regex)
        self._update_debug()

    def unfollow(self, service: Service) -> None:
        """Stop sending entries to `service`."""
        if self._filters.pop(service, None) is not None:
            self._update_debug()

    def write(
        self,
        level: str,
        module: str,
        text: str,
        *,
        cause: str | None = None,
        second: int = 0,
        **fields: Any,
    ) -> None:
        """Write one entry.

        `fields` describe it for programs; the text is for people. `cause` names the kind of event;
        there are only a few. `second` is the current second of any clock, and is needed with
        `cause`.
        """
        number = LEVELS[level]
        if not text.isascii():  # text from services may contain lone surrogates
            text = text.encode(errors="backslashreplace").decode()
        logger = logging.getLogger(f"mb_broker.{module}")
        if logger.isEnabledFor(number):
            left_out = 0 if cause is None else self._left_out(cause, second)
            if left_out is not None:
                more = f" (and {left_out} more like this)" if left_out else ""
                logger.log(number, "%s%s", text, more, extra={"mb": fields})
        message: bytes | None = None
        for service, wanted in list(self._filters.items()):
            if wanted.matches(number, text):
                if message is None:
                    message = _entry(level, module, text, fields)
                self._send(service, message)

    def write_debug(self, service: Service, text: str) -> None:
        """Write a debug entry about a single message, which `service` has sent.

        A logging handler in this process may publish the entry. That message has LOGGED_MESSAGE_ID
        as its parent, and is not logged, because that would never end.
        """
        before = handling.set(_LOGGED_MESSAGE)
        try:
            self.write("debug", "router", text, serviceId=service.id)
        finally:
            handling.reset(before)

    def _update_debug(self) -> None:
        self._follows_debug = any(logging.DEBUG in each.levels for each in self._filters.values())

    def _left_out(self, cause: str, second: int) -> int | None:
        """Return how many entries were left out before this one; None if this one is left out."""
        last, left_out = self._causes.get(cause, (None, 0))
        if last == second:
            self._causes[cause] = (second, left_out + 1)
            return None
        if len(self._causes) >= _MAX_CAUSES:  # users are among them, and there may be any number
            self._causes = {each: last for each, last in self._causes.items() if last[0] == second}
        self._causes[cause] = (second, 0)
        return left_out


def _entry(level: str, module: str, text: str, fields: dict[str, Any]) -> bytes:
    entry = {"level": level, "module": module, "message": text, "timestamp": timestamp_now()}
    try:
        return _HEADER + encode_payload({**fields, **entry})
    except LocalProtocolError:  # what a client sent may be nested too deep to encode
        return _HEADER + encode_payload(entry)
