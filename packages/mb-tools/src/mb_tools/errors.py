"""Exit statuses, and errors as one line on stderr."""

from __future__ import annotations

import contextlib
import errno
import re
from enum import IntEnum

import click

from .text import one_line

__all__ = ["Failure", "Status", "failure_of", "note", "report", "write_failure"]


class Status(IntEnum):
    """The exit statuses of `mb`."""

    SUCCESS = 0
    FAILED = 1
    """The answer is an error, or a message did not arrive in time."""
    USAGE = 2
    """The command line, or a topic or a payload in it, is invalid."""
    NO_CONNECTION = 3
    """The connection failed or was lost."""
    INTERRUPTED = 130
    """Ctrl-C ended a command that would have ended by itself."""


class Failure(click.ClickException):
    """An error of the current command: one line, and an exit status."""

    path = "mb"
    """The command as it was typed."""

    def __init__(self, text: str, status: Status = Status.FAILED) -> None:
        super().__init__(text)
        self.status = status


def failure_of(error: Exception) -> Failure:
    """Return the Failure for an error of the library; re-raise any other error."""
    import mb_core

    if isinstance(error, OSError):
        return write_failure(error)
    if not isinstance(error, mb_core.MBError):
        raise error
    text, status = str(error), Status.FAILED
    if isinstance(error, mb_core.ResponseError):
        # The topic that nobody answers is in the text already.
        if error.details is not None and not isinstance(error, mb_core.NoRouteFoundError):
            import msgspec

            text = f"{text} {msgspec.json.encode(error.details).decode()}"
    elif isinstance(error, mb_core.ConnectError | mb_core.ConnectionLost | mb_core.PluginError):
        status = Status.NO_CONNECTION
        for api, option in _REMEDIES.items():
            text = text.replace(api, option)
    elif isinstance(error, mb_core.LocalProtocolError | mb_core.MessageTooLarge):
        status = Status.USAGE
    return Failure(text, status)


def write_failure(error: OSError) -> Failure:
    """Return the Failure for output that could not be written; re-raise any other error."""
    if error.filename is None and error.errno in _WRITE_ERRORS:
        return Failure(f"can't write to standard output: {error.strerror}")
    raise error


def report(error: click.ClickException) -> None:
    """Write the error to stderr, prefixed with the name of its command."""
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "mb"
        text = re.sub(
            r"\s*\n\s*", " ", error.format_message()
        )  # click lists choices on separate lines
        _write_line(path, f"{text.rstrip('.')} (see {path} --help)")
    else:
        _write_line(getattr(error, "path", "mb"), error.message)


def note(text: str) -> None:
    """Write a line to stderr, prefixed with the name of the command."""
    ctx = click.get_current_context(silent=True)
    _write_line(ctx.command_path if ctx is not None else "mb", text)


# Remedies in the library's errors, and the equivalent options of `mb`.
_REMEDIES = {
    "pass ssl_context=ssl.create_default_context(cafile=...)": "give --cafile FILE",
    "pass the token of one of the broker's users as token=...": (
        "give the token of one of the broker's users with --token-file FILE or MB_TOKEN"
    ),
    "load one with ssl_context.load_cert_chain(...)": "give --cert FILE and --key FILE",
    "load another with ssl_context.load_cert_chain(...)": "give another --cert FILE and --key FILE",
}

# A full disk, a closed or read-only stream, a limit on file sizes.
_WRITE_ERRORS = {errno.ENOSPC, errno.EBADF, errno.EIO, errno.EFBIG, errno.EDQUOT}


def _write_line(path: str, text: str) -> None:
    # If stderr is gone, the exit status has to be enough.
    with contextlib.suppress(OSError):
        click.echo(f"{path}: {one_line(text)}", err=True)
