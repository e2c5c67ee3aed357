"""How `mb` ends: its exit statuses, and every error in one line on stderr.

A command returns its status, None for success, or raises.  What it raises is put into words here
and nowhere else: `mb request: NO_ROUTE_FOUND: nobody is subscribed ...`.  An error that is in no
table below is a mistake of ours, and keeps its traceback.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import Any

import click

__all__ = ["Failure", "Program", "Status", "failure_of", "note", "one_line", "run"]


class Status(IntEnum):
    """The exit statuses of `mb`."""

    SUCCESS = 0
    FAILED = 1
    """The answer is an error, or what was asked for did not come."""
    USAGE = 2
    """The command line, or a topic or a payload in it, can't be what is meant."""
    NO_CONNECTION = 3
    """No connection came about, or it was lost."""
    INTERRUPTED = 130
    """Ctrl-C ended what was to end by itself."""


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
        try:
            status = super().main(args, prog_name, complete_var, False, **extra)
            sys.stdout.flush()
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx is not None else "mb"
            status = Status.USAGE
            _tell(path, f"{error.format_message().rstrip('.')} ({path} --help tells more)")
        except Failure as error:
            status = error.status
            _tell(error.path, str(error))
        except click.Abort:
            status = Status.INTERRUPTED
        except BrokenPipeError:
            status = Status.SUCCESS
            _discard_output()
        sys.exit(status or Status.SUCCESS)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        except BrokenPipeError:  # who reads our output has enough: `mb sub '#' | head -1`
            _discard_output()
            return Status.SUCCESS
        except Failure as failure:
            failure.path = f"{ctx.command_path} {ctx.invoked_subcommand}"
            raise
        except click.ClickException:
            raise
        except Exception as error:
            told = failure_of(error)
            told.path = f"{ctx.command_path} {ctx.invoked_subcommand}"
            raise told from error


def run(
    function: Callable[..., Awaitable[Status | None]],
    *args: Any,
    following: bool = False,
    **options: Any,
) -> Status | None:
    """Run an async command; gives its exit status.

    With `following` the command shows what happens until it is ended: Ctrl-C is its usual end, and
    so is the end of who reads its output.
    """
    import anyio

    # What the library logs is raised here as well, or goes to `note`.
    logging.getLogger("mb_core").addHandler(_SILENT)
    call = functools.partial(function, *args, **options)
    try:
        if following:
            from .output import until_nobody_reads

            return anyio.run(until_nobody_reads, call)
        return anyio.run(call)
    except KeyboardInterrupt:
        return Status.SUCCESS if following else Status.INTERRUPTED
    except BaseExceptionGroup as group:
        raise _only(group) from None


def failure_of(error: Exception) -> Failure:
    """An error of the library in words; raises it where it is none that a user can meet."""
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
        return Failure(text, Status.NO_CONNECTION)
    if isinstance(error, mb_core.LocalProtocolError | mb_core.MessageTooLarge):
        return Failure(text, Status.USAGE)
    return Failure(text)


def note(text: str) -> None:
    """Tell people something beside the output: a line on stderr."""
    ctx = click.get_current_context(silent=True)
    _tell(ctx.command_path if ctx is not None else "mb", text)


def one_line(text: str) -> str:
    """`text` as it can be shown: what others sent may hold line breaks and control sequences."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


_SILENT = logging.NullHandler()

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _tell(path: str, text: str) -> None:
    click.echo(f"{path}: {one_line(text)}", err=True)


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group; where there are several, the first: the rest follows from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _discard_output() -> None:
    """Let the interpreter's last flush of stdout go nowhere, instead of failing."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # stdout is no file
        return
