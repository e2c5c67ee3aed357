"""What happens in the broker, told to its log and to the clients that follow it (`system.log`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mb_core.codec import encode_payload
from mb_core.errors import InvalidRequestError, LocalProtocolError, timestamp_now
from mb_core.ids import IdSource
from mb_core.message import handling, parse_message

from .log_filter import Search, compile_search
from .registry import Service

__all__ = ["LEVELS", "NOTED", "Journal"]

# The protocol's names of levels, and the standard library's numbers.
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {number: name for name, number in LEVELS.items()}

_HEADER = b"response:system.log:1.0.0\n"

NOTED = IdSource().next()
"""The parent of what is sent while an entry about a single message is written to the log."""
_NOTED = parse_message(b"publish:mb.noted:1.0.0:%b\n" % NOTED)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a service wants to be told: entries of these levels whose text has a match."""

    levels: frozenset[int]
    search: Search | None


class Journal:
    """Writes entries to the log `mb_broker.MODULE`, and sends them to the services that follow.

    Services are told what they asked for, whatever the log's own level is.  Entries that a
    client can cause by the thousand have a `cause`: of each, the log gets one in a second, and
    the next one says how many were left out.
    """

    def __init__(self, send: Callable[[Service, bytes], None]) -> None:
        self._send = send
        # By cause: the second in which the log got an entry, and how many it did not get since.
        self._causes: dict[str, tuple[int, int]] = {}
        self._wishes: dict[Service, _Wish] = {}
        self._detailed = False  # whether somebody follows debug entries
        self._logs_debug = logging.getLogger("mb_broker.router").isEnabledFor

    @property
    def detailed(self) -> bool:
        """Whether entries of level debug are wanted: one for each message that is passed on."""
        return self._detailed or self._logs_debug(logging.DEBUG)

    @property
    def followed(self) -> bool:
        """Whether any service follows."""
        return bool(self._wishes)

    def follow(self, service: Service, levels: Any, regex: Any) -> None:
        """Send entries to `service` from now on, by these wishes in place of earlier ones.

        Raises InvalidRequestError, whose details have what is wrong.
        """
        if not isinstance(levels, list):
            raise InvalidRequestError("levels are a list", details={"levels": levels})
        for level in levels:
            if not isinstance(level, str) or level not in LEVELS:
                raise InvalidRequestError(
                    f"a level is one of {', '.join(LEVELS)}", details={"level": level}
                )
        search = None
        if regex is not None:
            try:
                search = compile_search(regex)
            except ValueError as error:
                text = f"the regex can't be used: {error}"
                raise InvalidRequestError(text, details={"regex": regex}) from error
        self._wishes[service] = _Wish(frozenset(LEVELS[level] for level in levels), search)
        self._look_at_wishes()

    def forget(self, service: Service) -> None:
        """Send nothing more to `service`."""
        if self._wishes.pop(service, None) is not None:
            self._look_at_wishes()

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
        for service, wish in list(self._wishes.items()):
            if number in wish.levels and (wish.search is None or wish.search(text)):
                if message is None:
                    message = _entry(level, module, text, fields)
                self._send(service, message)

    def note(self, text: str, service: Service) -> None:
        """Write an entry of level debug about a single message, which `service` has sent.

        A logging handler in this process may publish it. That message has NOTED as its parent: a
        broker that wrote an entry about it as well would never come to an end.
        """
        before = handling.set(_NOTED)
        try:
            self.write("debug", "router", text, serviceId=service.id)
        finally:
            handling.reset(before)

    def _look_at_wishes(self) -> None:
        self._detailed = any(logging.DEBUG in wish.levels for wish in self._wishes.values())

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
