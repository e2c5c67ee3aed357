"""What a WebSocket port serves over HTTP, and to whose pages: without I/O."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from io import BytesIO
from itertools import pairwise
from typing import Any

import pytest

from mb_core.errors import ConnectError
from mb_core.wire import Limits, Page, Site, WireState
from mb_ws import WebSocketWire, server_wire

LIMITS = Limits(max_message=1000)
PAGES = {
    "/": Page(b"<p>hello", "text/html; charset=utf-8", headers={"Content-Security-Policy": "x"}),
    "/health": Page(b'{"status":"ok"}', "application/json"),
    "/busy": Page(b"later", "text/plain", status=503),
    "/empty": Page(b"", "text/plain"),
    "/large": Page(bytes(range(256)) * 4096, "application/octet-stream"),
}
UPGRADE = (
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)


def serve(origins: set[str] | None = None) -> WebSocketWire:
    site = Site(PAGES.get, frozenset(origins) if origins is not None else None)
    return server_wire(LIMITS, site)


def get(path: str, *headers: bytes, method: str = "GET", version: str = "1.1") -> bytes:
    head = f"{method} {path} HTTP/{version}\r\nHost: broker.example:8080\r\n".encode()
    return head + b"".join(headers) + b"\r\n"


class Socket:
    """What http.client reads an answer from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self._data)


def answer(data: bytes) -> tuple[HTTPResponse, bytes]:
    """An answer as the standard library reads it; there is one, and nothing behind it."""
    socket: Any = Socket(data)
    response = HTTPResponse(socket)
    response.begin()
    body = response.read()
    assert data.endswith(b"\r\n\r\n" + body)
    return response, body


# Pages


@pytest.mark.parametrize("path", list(PAGES))
def test_a_get_is_answered_with_the_page_and_the_connection_ends_in_order(path: str) -> None:
    wire, page = serve(), PAGES[path]
    assert wire.receive_data(get(path)) == []
    assert wire.state is WireState.CLOSED
    assert wire.error is None
    response, body = answer(wire.data_to_send())
    assert response.status == page.status
    assert body == page.body
    assert response.headers["Content-Type"] == page.content_type
    assert response.headers["Content-Length"] == str(len(page.body))
    assert response.headers["Connection"] == "close"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert parsedate_to_datetime(response.headers["Date"])
    assert all(response.headers[name] == value for name, value in page.headers.items())
    assert wire.data_to_send() == b""


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50])
def test_a_request_may_come_in_any_pieces(step: int) -> None:
    wire, request = serve(), get("/health", b"Accept: */*\r\n", b"User-Agent: x\r\n")
    for start, stop in pairwise([*range(0, len(request), step), len(request)]):
        assert wire.state is WireState.HANDSHAKE
        wire.receive_data(request[start:stop])
    assert answer(wire.data_to_send())[1] == PAGES["/health"].body
    assert wire.state is WireState.CLOSED


@pytest.mark.parametrize("path", ["/health?", "/health?a=b", "/health?a=?&b", "/?/health"])
def test_what_is_behind_a_question_mark_does_not_matter(path: str) -> None:
    wire = serve()
    wire.receive_data(get(path))
    page = PAGES[path.partition("?")[0]]
    assert answer(wire.data_to_send())[1] == page.body


def test_one_request_is_answered_whatever_is_behind_it() -> None:
    for behind in (get("/"), b"\x81\x80\0\0\0\0", b"\xff" * 2000, b"x" * 100_000):
        for pieces in ((get("/health") + behind,), (get("/health"), behind)):
            wire = serve()
            for piece in pieces:
                assert wire.receive_data(piece) == []
            assert answer(wire.data_to_send())[1] == PAGES["/health"].body
            assert wire.error is None


def test_the_end_of_the_stream_and_a_close_behind_a_page_change_nothing() -> None:
    wire = serve()
    wire.receive_data(get("/"))
    for _ in range(2):
        wire.receive_eof()
        wire.close("reason")
    assert wire.state is WireState.CLOSED
    assert wire.error is None
    assert answer(wire.data_to_send())[1] == PAGES["/"].body


def test_an_offer_to_speak_http_2_is_no_handshake() -> None:
    wire = serve()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    wire.receive_data(get("/health", offer))
    assert answer(wire.data_to_send())[1] == PAGES["/health"].body


@pytest.mark.parametrize(
    "handshake",
    [
        UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: WebSocket"),
        UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: h2c, websocket"),
        UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: h2c\r\nUpgrade: websocket"),
    ],
    ids=["any case", "among others", "two headers"],
)
def test_a_handshake_is_never_answered_with_a_page(handshake: bytes) -> None:
    wire = serve()
    wire.receive_data(get("/health", handshake))
    assert PAGES["/health"].body not in wire.data_to_send()


@pytest.mark.parametrize("path", ["/nothing", "/health/", "//", "/HEALTH", "/%2e", "*"])
def test_a_get_of_what_is_no_page_is_told_that_this_is_a_websocket_port(path: str) -> None:
    wire = serve()
    wire.receive_data(get(path))
    response, body = answer(wire.data_to_send())
    assert response.status == 426
    assert b"WebSocket" in body
    assert isinstance(wire.error, ConnectError)
    assert wire.state is WireState.CLOSED


def test_an_old_client_gets_a_page_as_well() -> None:
    wire = serve()
    wire.receive_data(get("/health", version="1.0"))
    response, body = answer(wire.data_to_send())
    assert (response.status, body) == (200, PAGES["/health"].body)


@pytest.mark.parametrize(
    ("request_", "start"),
    [
        (get("/", method="HEAD"), b"HTTP/1.1 405 "),
        (get("/", method="OPTIONS"), b"HTTP/1.1 405 "),
        # One with a body is none that websockets reads.
        (get("/", b"Content-Length: 2\r\n", method="POST") + b"{}", b""),
    ],
    ids=["HEAD", "OPTIONS", "POST"],
)
def test_only_a_get_is_answered_with_a_page(request_: bytes, start: bytes) -> None:
    wire = serve()
    wire.receive_data(request_)
    assert wire.data_to_send().startswith(start)
    assert isinstance(wire.error, ConnectError)
    assert wire.state is WireState.CLOSED


@pytest.mark.parametrize("path", [*PAGES, "/any/path"])
def test_a_handshake_opens_a_connection_on_every_path(path: str) -> None:
    wire = serve()
    wire.receive_data(get(path, UPGRADE))
    assert wire.state is WireState.OPEN
    assert wire.data_to_send().startswith(b"HTTP/1.1 101 ")


def test_without_a_site_there_are_no_pages() -> None:
    wire = server_wire(LIMITS)
    wire.receive_data(get("/"))
    assert answer(wire.data_to_send())[0].status == 426


# Origins


@pytest.mark.parametrize(
    "origin",
    [None, "https://broker.example", "https://evil.example", "null", "file://", "x"],
)
@pytest.mark.parametrize("with_site", [True, False])
def test_by_default_a_page_of_any_origin_may_connect(origin: str | None, with_site: bool) -> None:
    wire = serve() if with_site else server_wire(LIMITS)
    header = f"Origin: {origin}\r\n".encode() if origin is not None else b""
    wire.receive_data(get("/", UPGRADE, header))
    assert wire.state is WireState.OPEN


@pytest.mark.parametrize("origin", ["https://one.example", "http://two.example:8080", "null"])
def test_a_page_of_a_named_origin_may_connect(origin: str) -> None:
    wire = serve({"https://one.example", "http://two.example:8080", "null"})
    wire.receive_data(get("/", UPGRADE, f"Origin: {origin}\r\n".encode()))
    assert wire.state is WireState.OPEN


def test_a_client_that_is_no_browser_has_no_origin_and_may_connect() -> None:
    wire = serve({"https://one.example"})
    wire.receive_data(get("/", UPGRADE))
    assert wire.state is WireState.OPEN


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://one.example",
        "https://one.example:444",
        "https://one.example.evil.example",
        "https://one.example/",
        "null",
        "",
    ],
)
def test_a_page_of_another_origin_is_refused_in_words(origin: str) -> None:
    wire = serve({"https://one.example"})
    wire.receive_data(get("/", UPGRADE, f"Origin: {origin}\r\n".encode()))
    response, body = answer(wire.data_to_send())
    assert response.status == 403
    assert b"Origin" in body
    assert wire.state is WireState.CLOSED
    assert isinstance(wire.error, ConnectError)
    assert "Origin" in str(wire.error)


def test_two_origins_are_none() -> None:
    wire = serve({"https://one.example"})
    origins = b"Origin: https://one.example\r\nOrigin: https://evil.example\r\n"
    wire.receive_data(get("/", UPGRADE, origins))
    assert wire.state is WireState.CLOSED
    assert isinstance(wire.error, ConnectError)


def test_pages_are_for_every_origin() -> None:
    # Who may read them is the browser's to say: they allow no other origin to.
    wire = serve({"https://one.example"})
    wire.receive_data(get("/health", b"Origin: https://evil.example\r\n"))
    response, _ = answer(wire.data_to_send())
    assert response.status == 200
    assert "Access-Control-Allow-Origin" not in response.headers
