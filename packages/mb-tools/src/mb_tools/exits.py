"""How `mb` ends: its exit statuses, and every error in one line on stderr.

A command returns its status, None for success, or raises.  What it raises is put into words here
and nowhere else: `mb request: NO_ROUTE_FOUND: nobody is subscribed ...`.  An error that is in no
table below is a mistake of ours, and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import Any, TextIO

import click

__all__ = [
    "Failure",
    "Program",
    "Status",
    "discard_output",
    "escaped",
    "failure_of",
    "note",
    "one_line",
    "run",
    "write_failure",
]


class Status(IntEnum):
    """The exit statuses of `mb`."""

    SUCCESS = 0
    FAILED = 1
    """The answer is an error, or what was asked for did not come."""
    USAGE = 2
    """The command line, or a topic or a payload in it, is invalid."""
    NO_CONNECTION = 3
    """No connection came about, or it was lost."""
    INTERRUPTED = 130
    """Ctrl-C ended a command that would have ended by itself."""


class Failure(Exception):
    """An error of a command, for people: one line, and an exit status."""

    def __init__(self, text: str, status: Status = Status.FAILED) -> None:
        super().__init__(text)
        self.status = status
        self.path = "mb"


class Program(click.Group):
    """The command `mb`: the one place where commands end."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        _open_missing_streams()
        try:
            status = super().main(args, prog_name, complete_var, False, **extra)
            sys.stdout.flush()
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx is not None else "mb"
            status = Status.USAGE
            text = re.sub(r"\s*\n\s*", " ", error.format_message())  # click lists choices in lines
            _tell(path, f"{text.rstrip('.')} ({path} --help tells more)")
        except Failure as error:
            status = error.status
            _tell(error.path, str(error))
        except click.Abort:
            status = Status.INTERRUPTED
        except BrokenPipeError:
            status = Status.SUCCESS
            discard_output()
        except OSError as error:  # from click's own output: --help, --version
            told = write_failure(error)
            status = told.status
            _tell(told.path, str(told))
        _discard_unwritable()
        sys.exit(status or Status.SUCCESS)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        except BrokenPipeError:  # the reader of our output has enough: `mb sub '#' | head -1`
            discard_output()
            return Status.SUCCESS
        except Failure as failure:
            failure.path = " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand)))
            raise
        except click.ClickException:
            raise
        except Exception as error:
            told = write_failure(error) if isinstance(error, OSError) else failure_of(error)
            told.path = " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand)))
            raise told from error


def run(
    function: Callable[..., Awaitable[Status | None]],
    *args: Any,
    following: bool = False,
    endless: bool = False,
    **options: Any,
) -> Status | None:
    """Run an async command and return its exit status.

    A command that is `following` shows what happens, and ends when nobody reads its output any
    more.  One that is `endless` has no other end than Ctrl-C, which is then a success.
    """
    import anyio

    # What the library logs is raised here as well, or goes to `note`.
    logging.getLogger("mb_core").addHandler(_SILENT)
    call = functools.partial(function, *args, **options)
    try:
        try:
            if following:
                from .reader import until_nobody_reads

                return anyio.run(until_nobody_reads, call)
            return anyio.run(call)
        except BaseExceptionGroup as group:
            raise _only(group) from None
    except KeyboardInterrupt:
        return Status.SUCCESS if endless else Status.INTERRUPTED


def failure_of(error: Exception) -> Failure:
    """An error of the library in words; raises it again if it is an internal one."""
    import mb_core

    if not isinstance(error, mb_core.MBError):
        raise error
    text = str(error)
    if isinstance(error, mb_core.ResponseError):
        if error.details is not None:
            import msgspec

            text = f"{text} {msgspec.json.encode(error.details).decode()}"
        return Failure(text)
    if isinstance(error, mb_core.ConnectError | mb_core.ConnectionLost | mb_core.PluginError):
        for of_library, of_command in _ADVICE.items():
            text = text.replace(of_library, of_command)
        return Failure(text, Status.NO_CONNECTION)
    if isinstance(error, mb_core.LocalProtocolError | mb_core.MessageTooLarge):
        return Failure(text, Status.USAGE)
    return Failure(text)


def write_failure(error: OSError) -> Failure:
    """The Failure for output that could not be written; raises any other OSError again."""
    if error.filename is None and error.errno in _WRITE_ERRORS:
        return Failure(f"can't write to standard output: {error.strerror}")
    raise error


def discard_output() -> None:
    """Send what is still buffered for stdout nowhere: flushing it at exit would fail."""
    _discard(sys.stdout)


def note(text: str) -> None:
    """Tell people something beside the output: a line on stderr."""
    ctx = click.get_current_context(silent=True)
    _tell(ctx.command_path if ctx is not None else "mb", text)


def one_line(text: str) -> str:
    """Escape what must not reach a terminal: `text` may have come from anybody.

    That is line breaks, control sequences, and characters that are invisible or change the
    direction of others.
    """
    return escaped(text, lambda each: ascii(each)[1:-1])


def escaped_json(lines: str) -> str:
    """Escape in lines of JSON, as JSON does, the characters that one_line escapes in text."""
    return escaped(lines, lambda each: json.dumps(each)[1:-1], keep="\n")


def escaped(text: str, escape: Callable[[str], str], keep: str = "") -> str:
    """Replace each invisible character of `text`, but those in `keep`, by what `escape` returns."""
    if text.isascii() and text.isprintable():
        return text

    def is_shown(each: str) -> bool:
        return each in keep or (each.isprintable() and not _INVISIBLE.match(each))

    return "".join(each if is_shown(each) else escape(each) for each in text)


# Letters and marks to Python, but Unicode has nothing shown for them.  The variation selectors that
# make an emoji of a sign are left out.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0d\uffa0"
    "\U000e0100-\U000e01ef]"
)

# What the library's errors advise, in terms of the command line.
_ADVICE = {
    "pass ssl_context=ssl.create_default_context(cafile=...)": "give --cafile FILE",
    "load one with ssl_context.load_cert_chain(...)": "give --cert FILE and --key FILE",
    "load another with ssl_context.load_cert_chain(...)": "give another --cert FILE and --key FILE",
}

_SILENT = logging.NullHandler()

# A full disk, a stream that is closed, one that can't be written to, a limit on file sizes.
_WRITE_ERRORS = {errno.ENOSPC, errno.EBADF, errno.EIO, errno.EFBIG, errno.EDQUOT}


def _tell(path: str, text: str) -> None:
    # Without stderr there is nobody to tell, and the status says enough.
    with contextlib.suppress(OSError):
        click.echo(f"{path}: {one_line(text)}", err=True)


def _discard_unwritable() -> None:
    """Drop what stdout and stderr could not write.

    Python would try again at exit, complain, and end with status 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _discard(stream)


def _discard(stream: TextIO) -> None:
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):  # it is not a file
        return


def _open_missing_streams() -> None:
    """Replace standard streams that the parent process has closed.

    Otherwise the next file or socket that is opened would take their place.  Reading stdin and
    writing stdout then fail, and what is written to stderr is lost.
    """
    for fd, flags, name in (
        (0, os.O_WRONLY, "stdin"),
        (1, os.O_RDONLY, "stdout"),
        (2, os.O_WRONLY, "stderr"),
    ):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest number that is free: this one
            stream = io.TextIOWrapper(io.FileIO(fd, "r" if fd == 0 else "w", closefd=False))
            setattr(sys, name, stream)


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group; where there are several, the first: the rest follows from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
