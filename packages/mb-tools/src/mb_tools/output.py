"""Standard output: formatted for people on a terminal, one JSON value per line elsewhere."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import click

from .errors import write_failure
from .payloads import json_line
from .text import escaped_json, one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

__all__ = ["FOLDED", "WHOLE", "Output", "table"]

FOLDED: dict[str, Any] = {"overflow": "fold"}
WHOLE: dict[str, Any] = {"overflow": "fold", "no_wrap": True}
"""How a column shows text that is too long for it: wrapped, or cut."""


class Output:
    """Writes to stdout without blocking the event loop, however slow the reader is.

    A command that waits for a pager must keep answering heartbeats, or the broker drops it. So each
    write is no larger than what a ready pipe accepts.

    Raises Failure if stdout is closed or can't be written to; otherwise a command would notice only
    when it has something to print.
    """

    def __init__(self, as_json: bool = False) -> None:
        _check_stdout()
        self._terminal = sys.stdout.isatty()
        self.people = self._terminal and not as_json
        """Whether output is for people: a terminal, and `--json` was not given."""
        self.coloured = self.people and not os.environ.get("NO_COLOR")
        self._lock = anyio.Lock(fast_acquire=True)

    def style(self, text: str, **styles: Any) -> str:
        """Return `text` with the colours of click.style, if colours are wanted."""
        return click.style(text, **styles) if self.coloured else text

    async def write(self, text: str) -> None:
        """Write whole lines.

        Raises BrokenPipeError if the reader is gone, and Failure if they can't be written for
        another reason. When cancelled, some of them may have been written.
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

    async def print_entries(
        self,
        entries: Sequence[Any],
        columns: Mapping[str, dict[str, Any]],
        row: Callable[[Any], Sequence[str | Text]],
    ) -> None:
        """Print entries: for people, as the rows of a table.

        `columns` are titles with the options of rich's columns; `row` returns an entry's cells.
        """
        if self.people:
            from rich.console import Console

            Console().print(table(columns, map(row, entries)))
        else:
            await self.write("".join(map(json_line, entries)))


def table(columns: Mapping[str, dict[str, Any]], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table whose cells may contain untrusted text; see `Output.print_entries`."""
    from rich.table import Table
    from rich.text import Text

    made = Table(header_style="bold")
    for title, options in columns.items():
        made.add_column(title, **options)
    for row in rows:
        made.add_row(*(Text(one_line(cell)) if isinstance(cell, str) else cell for cell in row))
    return made


def _check_stdout() -> None:
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
        except BlockingIOError:  # another process that shares this pipe was faster
            await anyio.wait_writable(fd)
            continue
        data = data[written:]
