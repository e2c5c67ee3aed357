"""Payloads from the command line and from stdin."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import AsyncIterator

import anyio
import msgspec

from .exits import Failure, Status

__all__ = ["json_payload", "read_payload", "stdin_lines"]

_CHUNK = 65_536


def read_payload(argument: str | None, *, text: bool) -> msgspec.Raw:
    """The payload that was asked for: the argument, or stdin for `-` or nothing on a pipe.

    Nothing at all is `{}`.  Raises Failure where it is no JSON.
    """
    if argument is not None and argument != "-":
        data = os.fsencode(argument)
    elif argument == "-" or not sys.stdin.isatty():
        data = sys.stdin.buffer.read()
    else:
        data = b""
    if not text and not data.strip():
        return msgspec.Raw(b"{}")
    try:
        return json_payload(data, text=text)
    except ValueError as error:
        raise Failure(f"the payload {error}; --text sends a text", Status.USAGE) from None


def json_payload(data: bytes, *, text: bool) -> msgspec.Raw:
    """Bytes as JSON on one line, numbers as they were written.

    With `text` they become a JSON string, without the line break at their end.  Raises ValueError
    which says what they are not.
    """
    try:
        content = data.decode()
        if text:
            content = content.removesuffix("\n").removesuffix("\r")
            return msgspec.Raw(msgspec.json.encode(content))
        return msgspec.Raw(msgspec.json.format(data, indent=-1))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise ValueError(f"is no JSON: {reason}") from None


async def stdin_lines() -> AsyncIterator[bytes]:
    """The lines of stdin as they come, without their line breaks; empty ones are left out."""
    rest = b""
    async for chunk in _chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line.removesuffix(b"\r")
    if rest.strip():
        yield rest


async def _chunks() -> AsyncIterator[bytes]:
    try:
        fd = sys.stdin.fileno()
    except (OSError, ValueError):  # no file: a test's input
        yield sys.stdin.buffer.read()
        return
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        if not poll.poll(0):
            await anyio.wait_readable(fd)
        chunk = os.read(fd, _CHUNK)
        if not chunk:
            return
        yield chunk
