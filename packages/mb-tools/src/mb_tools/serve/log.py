"""The log of `mb serve`: lines for people, or JSON for machines, without blocking the broker."""

from __future__ import annotations

import logging
import os
import queue
import select
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from ..text import escaped, escaped_json, one_line

__all__ = ["JsonFormatter", "TextFormatter", "UnblockedHandler", "set_up"]

# The most entries that wait to be written; further ones are dropped.
_MAX_WAITING = 10_000
# Bytes that a writable pipe accepts in one write.
_AT_ONCE = 4096
# Seconds that the process waits at exit for the remaining entries.
_LAST_WRITE = 1.0


class TextFormatter(logging.Formatter):
    """Writes one line per entry; control characters in names and topics are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return escaped(super().formatException(ei), lambda each: ascii(each)[1:-1], keep="\n")


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line: level, module, message, timestamp, and other fields."""

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
            # In this order, and without replacing any of the fields above.
            return _encode({**entry, **getattr(record, "mb", {}), **entry})
        except (UnicodeEncodeError, RecursionError):  # the fields contain what clients sent
            plain: dict[str, object] = {key: _encodable(value) for key, value in entry.items()}
            return _encode(plain)


class UnblockedHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream without blocking, even if its reader stalls.

    If the stream accepts an entry immediately, it is written immediately, and is not lost if the
    process is killed. Otherwise it waits for a thread. When the queue is full, entries are dropped;
    the next one that is written says how many.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._file = stream.fileno()
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_MAX_WAITING)
        self._dropped = 0
        # A daemon, because it may block forever. It writes to the file descriptor: the interpreter
        # needs the lock of the stream's buffer to exit, and this thread would hold it while it
        # blocks.
        self._thread = threading.Thread(target=self._write, name="mb log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if not self._waiting.unfinished_tasks and self._takes_a_line():
            line = self._line(record)
            if len(line) <= _AT_ONCE:
                self._write_line(line)
                return
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Wait briefly for the remaining entries."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            pass
        else:
            self._thread.join(_LAST_WRITE)
        super().close()

    def _takes_a_line(self) -> bool:
        try:
            return bool(select.select((), (self._file,), (), 0)[1])
        except (OSError, ValueError):  # Windows supports this only for sockets
            return False

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                text = f"dropped entries: {dropped} (the log was not read fast enough)"
                note = logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)
                self._write_line(self._line(note))
            self._write_line(self._line(record))
            self._waiting.task_done()

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            return (self.format(record) + self.terminator).encode(errors="backslashreplace")
        except Exception:
            self.handleError(record)
            return b""

    def _write_line(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError:
            pass  # the reader is gone


def set_up(level: str, style: str) -> None:
    """Write all entries of at least this level to stderr."""
    handler: logging.StreamHandler[TextIO]
    try:
        handler = UnblockedHandler(sys.stderr)
    except (AttributeError, OSError, ValueError):  # it is closed, or not a file
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _encode(entry: dict[str, object]) -> str:
    return escaped_json(msgspec.json.encode(entry, enc_hook=repr).decode())


def _encodable(value: object) -> str:
    """Return text without characters that UTF-8 can't encode."""
    return str(value).encode(errors="backslashreplace").decode()
