"""Standard output: for people on a terminal, one JSON value a line anywhere else."""

from __future__ import annotations

import io
import json
import os
import select
import sys
from datetime import datetime
from typing import Any

import anyio
import click
import msgspec

from .exits import escaped_json, write_failure

__all__ = ["Output", "clock", "compact_json", "json_line", "raw_json"]


class Output:
    """Lines to stdout that never block the event loop, however slow their reader is.

    A command that waits for a pager must go on to answer heartbeats, or the broker drops it.  So
    no more is written at a time than a pipe that is ready takes at once.

    Raises Failure if stdout is closed or the disk is full: a command that waits for something to
    print would otherwise notice only then.
    """

    def __init__(self, as_json: bool = False) -> None:
        _expect_stdout()
        self._terminal = sys.stdout.isatty()
        self.people = self._terminal and not as_json
        """Whether people read it: a terminal, and JSON was not asked for."""
        self.coloured = self.people and not os.environ.get("NO_COLOR")
        self._lock = anyio.Lock(fast_acquire=True)

    def style(self, text: str, **styles: Any) -> str:
        """`text` in colour, where that is wanted; see click.style."""
        return click.style(text, **styles) if self.coloured else text

    async def write(self, text: str) -> None:
        """Write whole lines.

        Raises BrokenPipeError if nobody reads them any more, and Failure if they can't be written.
        When cancelled, a part of them may have been written.
        """
        if self._terminal and not self.people:
            text = escaped_json(text)
        async with self._lock:
            try:
                sys.stdout.flush()
                await _write(text)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise write_failure(error) from error


def json_line(value: Any) -> str:
    """`value` as a line of JSON."""
    return msgspec.json.encode(value).decode() + "\n"


def raw_json(payload: bytes) -> msgspec.Raw | None:
    """Return a received payload as JSON on one line, digits and all; None if it is not JSON.

    An empty payload counts as null.
    """
    try:
        return compact_json(payload or b"null")
    except ValueError:
        return None


def compact_json(data: bytes) -> msgspec.Raw:
    """Return JSON on one line, with numbers as they were written.

    Raises ValueError that says why it is not valid JSON.
    """
    try:
        data.decode()
        return msgspec.Raw(msgspec.json.format(data, indent=-1))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        if _is_json(data):  # with half of a surrogate pair, which msgspec refuses
            # In a string a line break is escaped: these are between values.
            return msgspec.Raw(data.strip().replace(b"\r", b" ").replace(b"\n", b" "))
        reason = str(error).removeprefix("JSON is malformed: ")
        raise ValueError(f"is not valid JSON: {reason}") from None


def clock(moment: datetime | None = None) -> str:
    """The time of day in this place, to the millisecond."""
    moment = moment if moment is not None else datetime.now().astimezone()
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3]


def _is_json(data: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN and Infinity are Python's own

    try:
        json.loads(data.decode(), parse_constant=refuse)  # from bytes it reads UTF-16 as well
    except (ValueError, RecursionError):
        return False
    return True


def _expect_stdout() -> None:
    try:
        os.write(sys.stdout.fileno(), b"")
    except io.UnsupportedOperation:  # not a file: a test's capture
        return
    except OSError as error:
        raise write_failure(error) from error


async def _write(text: str) -> None:
    try:
        fd = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file: a test's capture
        sys.stdout.write(text)
        return
    data = memoryview(text.encode(errors="backslashreplace"))
    if not hasattr(select, "poll"):  # Windows, whose event loops can't wait for a pipe
        while data:
            written = await anyio.to_thread.run_sync(os.write, fd, data, abandon_on_cancel=True)
            data = data[written:]
        return
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    while data:
        if not poll.poll(0):
            await anyio.wait_writable(fd)
        try:
            written = os.write(fd, data[: select.PIPE_BUF])
        except BlockingIOError:  # somebody else who shares this pipe was faster
            await anyio.wait_writable(fd)
            continue
        data = data[written:]
