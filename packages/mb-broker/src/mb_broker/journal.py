"""What happens in the broker, told to its log and to the clients that follow it (`system.log`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mb_core.codec import encode_payload
from mb_core.errors import InvalidRequestError, LocalProtocolError, timestamp_now

from .registry import Service
from .search import Search, compile_search

__all__ = ["LEVELS", "Journal"]

# The protocol's names of levels, and the standard library's numbers.
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {number: name for name, number in LEVELS.items()}

_HEADER = b"response:system.log:1.0.0\n"


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a service wants to be told: entries of these levels whose text has a match."""

    levels: frozenset[int]
    search: Search | None


class Journal:
    """Writes entries to the log `mb_broker.MODULE`, and sends them to the services that follow.

    Services are told what they asked for, whatever the log's own level is.
    """

    def __init__(self, send: Callable[[Service, bytes], None]) -> None:
        self._send = send
        self._wishes: dict[Service, _Wish] = {}

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

    def forget(self, service: Service) -> None:
        """Send nothing more to `service`."""
        self._wishes.pop(service, None)

    def write(self, level: str, module: str, text: str, **fields: Any) -> None:
        """One entry.  `fields` are what it is about, for machines; the text is for people."""
        number = LEVELS[level]
        logger = logging.getLogger(f"mb_broker.{module}")
        if logger.isEnabledFor(number):
            logger.log(number, "%s", text, extra={"mb": fields})
        message: bytes | None = None
        for service, wish in list(self._wishes.items()):
            if number in wish.levels and (wish.search is None or wish.search(text)):
                if message is None:
                    message = _entry(level, module, text, fields)
                self._send(service, message)


def _entry(level: str, module: str, text: str, fields: dict[str, Any]) -> bytes:
    entry = {"level": level, "module": module, "message": text, "timestamp": timestamp_now()}
    try:
        return _HEADER + encode_payload({**fields, **entry})
    except LocalProtocolError:  # what a client sent may be nested too deep to be written again
        return _HEADER + encode_payload(entry)
