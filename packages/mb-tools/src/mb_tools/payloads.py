"""Payloads: read from the command line and stdin, written as lines of JSON."""

from __future__ import annotations

import codecs
import json
import os
import select
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec

from .errors import Failure, Status
from .text import one_line

__all__ = [
    "compact_json",
    "json_line",
    "json_payload",
    "payload_text",
    "raw_json",
    "read_payload",
    "stdin_lines",
]

_CHUNK = 65_536


def read_payload(argument: str | None, *, text: bool) -> msgspec.Raw:
    """Return the payload given as an argument: `-` reads stdin, and no argument means `{}`.

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
            raise _unreadable(error) from None
    if not text and not data.strip():
        return msgspec.Raw(b"{}")
    try:
        return json_payload(data, text=text)
    except ValueError as error:
        remedy = (
            "convert it to UTF-8" if "UTF-8" in str(error) else "use --text to send it as a string"
        )
        raise Failure(f"the payload {error} ({remedy})", Status.USAGE) from None


def json_payload(data: bytes, *, text: bool) -> msgspec.Raw:
    """Return bytes as JSON on one line; numbers keep their spelling.

    With `text`, they become a JSON string without the final line break. A byte order mark is
    removed. Raises ValueError that explains why they can't be sent.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    if not text:
        return compact_json(data)
    content = _decoded(data).removesuffix("\n").removesuffix("\r")
    return msgspec.Raw(msgspec.json.encode(content))


def compact_json(data: bytes) -> msgspec.Raw:
    """Return JSON on one line; numbers keep their spelling.

    Raises ValueError that explains why it is not valid JSON.
    """
    text = _decoded(data)
    try:
        return msgspec.Raw(msgspec.json.format(data, indent=-1))
    except (msgspec.DecodeError, RecursionError) as error:
        if _is_json(text):  # with a lone surrogate, which msgspec rejects
            # Line breaks in strings are escaped, so these are between values.
            return msgspec.Raw(data.strip().replace(b"\r", b" ").replace(b"\n", b" "))
        reason = str(error).removeprefix("JSON is malformed: ")
        raise ValueError(f"is not valid JSON: {reason}") from None


def raw_json(payload: bytes) -> msgspec.Raw | None:
    """Return a received payload as JSON on one line, digit for digit; None if it is not JSON.

    An empty payload counts as null.
    """
    try:
        return compact_json(payload or b"null")
    except ValueError:
        return None


def payload_text(payload: bytes) -> str:
    """Return any received payload on one line for people."""
    json_form = raw_json(payload)
    shown = payload if json_form is None else bytes(json_form)
    return one_line(shown.decode(errors="backslashreplace"))


def json_line(value: Any) -> str:
    """Return `value` as a line of JSON."""
    return msgspec.json.encode(value).decode() + "\n"


async def stdin_lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin as they arrive, without line breaks; skip empty lines.

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
        raise _unreadable(error) from None
    if rest.strip():
        yield rest


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error}") from None


def _is_json(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN and Infinity are Python extensions

    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _unreadable(error: OSError) -> Failure:
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
    if not poll.poll(0):  # a regular file is always ready, and epoll rejects it
        await anyio.wait_readable(fd)
    return os.read(fd, _CHUNK)
