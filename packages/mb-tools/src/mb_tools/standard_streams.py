"""Handle standard streams that the parent process closed, or that can't be written to."""

from __future__ import annotations

import os
import sys
from typing import TextIO

__all__ = ["discard", "discard_unwritable", "open_missing_streams"]


def open_missing_streams() -> None:
    """Replace standard streams that the parent process has closed.

    Otherwise the next file or socket that is opened would get their descriptors. With the
    replacements, reading stdin and writing stdout fail, and output to stderr is lost.
    """
    for name, flags in (("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, flags)  # gets the lowest free number, which is the stream's
            setattr(sys, name, os.fdopen(fd, "r" if name == "stdin" else "w", closefd=False))


def discard_unwritable() -> None:
    """Drop the output that stdout and stderr could not write.

    Otherwise Python would try again at exit, complain, and exit with status 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


def discard(stream: TextIO) -> None:
    """Discard what is buffered for `stream` and everything written to it from now on."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):  # it is not a file
        return
