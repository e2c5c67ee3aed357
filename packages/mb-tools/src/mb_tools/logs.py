"""How `mb serve` writes its log: lines for people, or JSON for machines."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import msgspec

from .exits import one_line

__all__ = ["JsonFormatter", "TextFormatter", "set_up"]


class TextFormatter(logging.Formatter):
    """One line each, whatever clients put into the names and topics of which it tells."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: level, module, message, timestamp, and what the entry is about."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        entry: dict[str, object] = {
            "timestamp": when.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "module": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            # In this order, and no field takes the place of an entry's own.
            return _encode({**entry, **getattr(record, "mb", {}), **entry})
        except (UnicodeEncodeError, RecursionError):  # the entry's fields are what clients sent
            plain: dict[str, object] = {key: _encodable(value) for key, value in entry.items()}
            return _encode(plain)


def set_up(level: str, style: str) -> None:
    """Have everything from this level on written to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _encode(entry: dict[str, object]) -> str:
    return msgspec.json.encode(entry, enc_hook=repr).decode()


def _encodable(value: object) -> str:
    """Text without what UTF-8 has no bytes for."""
    return str(value).encode(errors="backslashreplace").decode()
