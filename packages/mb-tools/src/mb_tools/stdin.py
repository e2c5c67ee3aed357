"""Payloads from the command line and from stdin."""

from __future__ import annotations

import codecs
import os
import select
import sys
from collections.abc import AsyncIterator

import anyio
import msgspec

from .exits import Failure, Status
from .output import compact_json

__all__ = ["json_payload", "read_payload", "stdin_lines"]

_CHUNK = 65_536


def read_payload(argument: str | None, *, text: bool) -> msgspec.Raw:
    """Return the payload that was given: `-` reads stdin, and without one it is `{}`.

    Raises Failure if it is not valid JSON, or stdin can't be read.
    """
    if argument is None:
        if text:
            raise Failure("--text needs a PAYLOAD (use - to read it from stdin)", Status.USAGE)
        return msgspec.Raw(b"{}")
    data = os.fsencode(argument)
    if argument == "-":
        try:
            data = sys.stdin.buffer.read()
        except OSError as error:
            raise unreadable(error) from None
    if not text and not data.strip():
        return msgspec.Raw(b"{}")
    try:
        return json_payload(data, text=text)
    except ValueError as error:
        remedy = "convert it to UTF-8" if "UTF-8" in str(error) else "use --text to send a string"
        raise Failure(f"the payload {error} ({remedy})", Status.USAGE) from None


def json_payload(data: bytes, *, text: bool) -> msgspec.Raw:
    """Return bytes as JSON on one line, with numbers as they were written.

    With `text` they become a JSON string, without the line break at their end.  A byte order mark
    is left out.  Raises ValueError that says why they can't be sent.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        content = data.decode()
        if text:
            content = content.removesuffix("\n").removesuffix("\r")
            return msgspec.Raw(msgspec.json.encode(content))
        return compact_json(data)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error}") from None


async def stdin_lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin as they come, without line breaks; empty ones are left out.

    Raises Failure if stdin can't be read.
    """
    rest = b""
    try:
        async for chunk in _chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield line.removesuffix(b"\r")
    except OSError as error:
        raise unreadable(error) from None
    if rest.strip():
        yield rest


def unreadable(error: OSError) -> Failure:
    return Failure(f"can't read standard input: {error.strerror}", Status.USAGE)


async def _chunks() -> AsyncIterator[bytes]:
    try:
        fd = sys.stdin.fileno()
    except (OSError, ValueError):  # not a file: a test's input
        yield sys.stdin.buffer.read()
        return
    while chunk := await _read(fd):
        yield chunk


async def _read(fd: int) -> bytes:
    if not hasattr(select, "poll"):  # Windows, whose event loops can't wait for a pipe
        return await anyio.to_thread.run_sync(os.read, fd, _CHUNK, abandon_on_cancel=True)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(0):  # a regular file is always ready, and epoll refuses it
        await anyio.wait_readable(fd)
    return os.read(fd, _CHUNK)
