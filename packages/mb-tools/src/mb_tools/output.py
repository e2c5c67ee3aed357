"""Standard output: for people on a terminal, one JSON value a line anywhere else."""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import anyio
import click
import msgspec

from .exits import Status

__all__ = ["Output", "clock", "json_line", "raw_json", "until_nobody_reads"]


class Output:
    """Lines to stdout that never block the event loop, however slow their reader is.

    A command that waits for a pager must go on to answer heartbeats, or the broker drops it.  So
    no more is written at a time than a pipe that is ready takes at once.
    """

    def __init__(self, as_json: bool = False) -> None:
        terminal = sys.stdout.isatty()
        self.people = terminal and not as_json
        """Whether people read it: a terminal, and JSON was not asked for."""
        self.coloured = self.people and not os.environ.get("NO_COLOR")
        self._lock = anyio.Lock(fast_acquire=True)

    def style(self, text: str, **styles: Any) -> str:
        """`text` in colour, where that is wanted; see click.style."""
        return click.style(text, **styles) if self.coloured else text

    async def write(self, text: str) -> None:
        """Write whole lines; raises BrokenPipeError where nobody reads them any more.

        When cancelled, a part of them may have been written.
        """
        async with self._lock:
            sys.stdout.flush()
            try:
                fd = sys.stdout.fileno()
            except (OSError, ValueError):  # no file: a test's capture
                sys.stdout.write(text)
                return
            await _write(fd, memoryview(text.encode(errors="backslashreplace")))


async def until_nobody_reads(
    function: Callable[[], Awaitable[Status | None]],
) -> Status | None:
    """Run `function`; where stdout is a pipe whose other end is closed, end it.

    Who only writes hears of that at the next write, which may be hours away.
    """
    status = None
    async with anyio.create_task_group() as tasks:
        if _is_pipe():
            tasks.start_soon(_end_with_reader, tasks.cancel_scope)
        status = await function()
        tasks.cancel_scope.cancel()
    return status


def json_line(value: Any) -> str:
    """`value` as a line of JSON."""
    return msgspec.json.encode(value).decode() + "\n"


def raw_json(payload: bytes) -> msgspec.Raw | None:
    """A received payload as JSON on one line, digits and all; None where it is no JSON.

    An empty payload counts as null.
    """
    if not payload:
        return msgspec.Raw(b"null")
    try:
        payload.decode()
        return msgspec.Raw(msgspec.json.format(payload, indent=-1))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def clock(moment: datetime | None = None) -> str:
    """The time of day in this place, to the millisecond."""
    moment = moment if moment is not None else datetime.now().astimezone()
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3]


async def _write(fd: int, data: memoryview) -> None:
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


def _is_pipe() -> bool:
    """Whether stdout is the writing end of a pipe, and nothing else."""
    try:
        fd = sys.stdout.fileno()
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        return stat.S_ISFIFO(os.fstat(fd).st_mode) and mode == os.O_WRONLY
    except (OSError, ValueError):
        return False


async def _end_with_reader(scope: anyio.CancelScope) -> None:
    """Nothing can be read at this end: it becomes readable when the other one is closed."""
    await anyio.wait_readable(sys.stdout.fileno())
    scope.cancel()
