"""Requests over HTTP, as a browser and curl send them."""

from __future__ import annotations

import ssl
from http.client import HTTPResponse
from io import BytesIO
from typing import Any

import anyio
import anyio.abc

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


class Answer:
    """An answer over HTTP."""

    def __init__(self, data: bytes, method: str) -> None:
        stream: Any = type("Socket", (), {"makefile": lambda *_: BytesIO(data)})()
        response = HTTPResponse(stream, method=method)
        response.begin()
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


async def fetch(
    url: str,
    path: str,
    *headers: str,
    method: str = "GET",
    host: str | None = None,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Ask for `path` from a broker's WebSocket port, up to the end of the connection."""
    where = url.partition("://")[2].strip("/")
    name, _, port = where.rpartition(":")
    received = b""
    async with await anyio.connect_tcp(
        name.strip("[]"),
        int(port),
        ssl_context=context,
        tls_hostname="localhost" if context is not None else None,
    ) as stream:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or where}", *headers]
        await stream.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        try:
            while True:
                received += await stream.receive()
        except anyio.EndOfStream:
            return Answer(received, method)
