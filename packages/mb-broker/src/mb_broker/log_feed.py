"""The broker's log: in the standard library's logging, and as the feed `system.log`."""

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

_HEADER = b"response:system.log:1.0.0\n"

LOGGED_MESSAGE_ID = IdSource().next()
"""The parent id of messages that are sent while an entry about a single message is written."""
_LOGGED_MESSAGE = parse_message(b"publish:mb.logged:1.0.0:%b\n" % LOGGED_MESSAGE_ID)


class LogFeed:
    """Writes entries to the log `mb_broker.MODULE`, and sends them to the services that follow.

    Services get what they asked for, whatever the log's own level is.  Entries that a client can
    cause by the thousand have a `cause`: of each, the log gets one in a second, and the next one
    says how many were left out.
    """

    def __init__(self, send: Callable[[Service, bytes], None]) -> None:
        self._send = send
        # By cause: the second in which the log got an entry, and how many it did not get since.
        self._causes: dict[str, tuple[int, int]] = {}
        self._filters: dict[Service, LogFilter] = {}
        self._follows_debug = False  # whether somebody follows debug entries
        self._logs_debug = logging.getLogger("mb_broker.router").isEnabledFor

    @property
    def wants_debug(self) -> bool:
        """Whether entries of level debug are wanted: one for each message that is passed on."""
        return self._follows_debug or self._logs_debug(logging.DEBUG)

    @property
    def followed(self) -> bool:
        """Whether any service follows."""
        return bool(self._filters)

    def follow(self, service: Service, levels: Any, regex: Any) -> None:
        """Send entries to `service` from now on, by this filter in place of an earlier one.

        Raises InvalidRequestError, whose details have what is wrong.
        """
        self._filters[service] = read_log_filter(levels, regex)
        self._update_debug()

    def unfollow(self, service: Service) -> None:
        """Send nothing more to `service`."""
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

        `fields` are what it is about, for machines; the text is for people.  `cause` is the name
        of what happened, one of a few; `second` goes with it, and is when, by any clock.
        """
        number = LEVELS[level]
        if not text.isascii():  # what services say may contain halves of surrogate pairs
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
        """Write an entry of level debug about a single message, which `service` has sent.

        A logging handler in this process may publish the entry.  That message has
        LOGGED_MESSAGE_ID as its parent, and gets no entry of its own, which would be endless.
        """
        before = handling.set(_LOGGED_MESSAGE)
        try:
            self.write("debug", "router", text, serviceId=service.id)
        finally:
            handling.reset(before)

    def _update_debug(self) -> None:
        self._follows_debug = any(logging.DEBUG in each.levels for each in self._filters.values())

    def _left_out(self, cause: str, second: int) -> int | None:
        """How many entries the log was spared before this one; None where it is spared this one."""
        last, left_out = self._causes.get(cause, (None, 0))
        if last == second:
            self._causes[cause] = (second, left_out + 1)
            return None
        self._causes[cause] = (second, 0)
        return left_out


def _entry(level: str, module: str, text: str, fields: dict[str, Any]) -> bytes:
    entry = {"level": level, "module": module, "message": text, "timestamp": timestamp_now()}
    try:
        return _HEADER + encode_payload({**fields, **entry})
    except LocalProtocolError:  # what a client sent may be nested too deep to be written again
        return _HEADER + encode_payload(entry)
