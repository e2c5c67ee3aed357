"""What a WebSocket port serves over HTTP, and to whose pages: without I/O."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from io import BytesIO
from itertools import pairwise
from typing import Any

import pytest

from mb_core.errors import ConnectError
from mb_core.wire import Limits, Page, Site, Visit, WireState
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


def serve(forbids: Callable[[Visit], str | None] = lambda visit: None) -> WebSocketWire:
    return server_wire(LIMITS, Site(PAGES.get, forbids))


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


@pytest.mark.parametrize("path", ["/nothing", "/health/", "//", "/HEALTH", "/%2e", "/mb/health"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
def test_where_there_is_no_page_the_status_is_404(path: str, method: str) -> None:
    wire = serve()
    wire.receive_data(get(path, method=method))
    data = wire.data_to_send()
    assert data.startswith(b"HTTP/1.1 404 ")
    assert (path.encode() in data) is (method != "HEAD")
    assert wire.state is WireState.CLOSED
    assert wire.error is None  # it was answered: nothing failed


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", list(PAGES))
def test_head_is_answered_like_get_without_the_body(path: str, version: str) -> None:
    heads = []
    for method in ("GET", "HEAD"):
        wire = serve()
        wire.receive_data(get(path, method=method, version=version))
        head, _, body = wire.data_to_send().partition(b"\r\n\r\n")
        heads.append([line for line in head.split(b"\r\n") if not line.startswith(b"Date:")])
        assert body == (PAGES[path].body if method == "GET" else b"")
        assert (wire.state, wire.error) == (WireState.CLOSED, None)
    assert heads[0] == heads[1]


@pytest.mark.parametrize("path", [*PAGES, "*"])
def test_options_lists_the_methods(path: str) -> None:
    wire = serve()
    wire.receive_data(get(path, method="OPTIONS"))
    response, body = answer(wire.data_to_send())
    assert (response.status, body) == (204, b"")
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert "Content-Length" not in response.headers
    assert "Access-Control-Allow-Origin" not in response.headers
    assert (wire.state, wire.error) == (WireState.CLOSED, None)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "get"])
def test_another_method_is_answered_with_those_that_are_allowed(method: str) -> None:
    wire = serve()
    wire.receive_data(get("/health", method=method))
    response, _ = answer(wire.data_to_send())
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert (wire.state, wire.error) == (WireState.CLOSED, None)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (get("/", b"Content-Length: 2\r\n", method="POST") + b"{}", "body"),
        (get("/health", b"Content-Length: 5\r\n") + b"hello", "body"),
        (get("/health", b"Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n", "transfer"),
        (get("/health").replace(b"\r\n", b"\n"), "CR and LF"),
        (get("/health", b"x: y\r\n z\r\n"), "header line"),
        (get("/health", b"x: a\0b\r\n"), "header value"),
        (get("/health", version="3"), "protocol"),
        (get("/health", b"Host: other.example\r\n"), "two Host"),
        (b"GET /health\r\n\r\n", "request line"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_request_that_can_not_be_read_is_answered_with_400(
    request_: bytes, reason: str, step: int
) -> None:
    wire = serve()
    for start in range(0, len(request_), step):
        wire.receive_data(request_[start : start + step])
    response, body = answer(wire.data_to_send())
    assert response.status == 400
    assert reason in body.decode()
    assert wire.state is WireState.CLOSED
    assert isinstance(wire.error, ConnectError)
    assert reason in str(wire.error)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "received TLS, on a port without TLS"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "received the PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "received the PROXY protocol"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "received HTTP/2"),
        (b"\0\0\0\x22publish:system.x:1.0.0\n{}", "received MB over TCP"),
        (
            b"request:system.authenticate:1\n{}\n",
            "received an MB message that is not in a WebSocket",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "received SSH"),
        (b"\xff\xfe\xfd\xfc\xfb", r"received b'\xff\xfe\xfd\xfc\xfb'"),
    ],
    ids=repr,
)
def test_another_protocol_is_named_at_once_and_not_answered(data: bytes, told: str) -> None:
    wire = serve()
    wire.receive_data(data)
    assert wire.state is WireState.CLOSED
    assert wire.data_to_send() == b""
    assert isinstance(wire.error, ConnectError)
    assert told in str(wire.error)


def test_a_target_with_a_host_counts_in_place_of_the_header() -> None:
    seen: list[Visit] = []
    wire = serve(lambda visit: seen.append(visit))
    wire.receive_data(get("http://other.example:81/health?x"))
    assert answer(wire.data_to_send())[0].status == 200
    assert seen == [Visit("/health", "other.example:81", None)]


def test_an_old_client_gets_a_page_as_well() -> None:
    wire = serve()
    wire.receive_data(get("/health", version="1.0"))
    response, body = answer(wire.data_to_send())
    assert (response.status, body) == (200, PAGES["/health"].body)


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


# Which pages and hosts are accepted


def test_a_handshake_is_judged_by_host_and_origin() -> None:
    seen: list[Visit] = []
    for header in (b"Origin: https://one.example\r\n", b""):
        wire = serve(lambda visit: seen.append(visit))
        wire.receive_data(get("/any", UPGRADE, header))
        assert wire.state is WireState.OPEN
    host = "broker.example:8080"
    assert seen == [Visit(None, host, "https://one.example"), Visit(None, host, None)]


@pytest.mark.parametrize("headers", [UPGRADE, b""], ids=["handshake", "page"])
def test_what_is_forbidden_is_refused_with_the_reason(headers: bytes) -> None:
    wire = serve(lambda visit: "not you")
    wire.receive_data(get("/health", headers))
    response, body = answer(wire.data_to_send())
    assert (response.status, body) == (403, b"not you\n")
    assert wire.state is WireState.CLOSED
    assert isinstance(wire.error, ConnectError)
    assert str(wire.error) == "not you"


def test_two_origins_are_refused() -> None:
    wire = serve()
    origins = b"Origin: https://one.example\r\nOrigin: https://evil.example\r\n"
    wire.receive_data(get("/", UPGRADE, origins))
    assert answer(wire.data_to_send())[0].status == 400
    assert wire.state is WireState.CLOSED
    assert isinstance(wire.error, ConnectError)


@pytest.mark.parametrize(
    "headers",
    [
        UPGRADE.replace(b"Connection: Upgrade", b"Connection: close"),
        UPGRADE.replace(b"Connection: Upgrade", b"Connection: close").replace(
            b"Upgrade: websocket\r\n", b""
        ),
    ],
    ids=["Connection", "both"],
)
def test_a_handshake_that_a_proxy_has_cut_is_told_so(headers: bytes) -> None:
    wire = serve()
    wire.receive_data(get("/", headers))
    response, _ = answer(wire.data_to_send())
    assert response.status == 426
    assert "does a proxy in between drop it?" in str(wire.error)


def test_other_sites_may_not_read_pages() -> None:
    wire = serve()
    wire.receive_data(get("/health", b"Origin: https://evil.example\r\n"))
    response, _ = answer(wire.data_to_send())
    assert response.status == 200
    assert "Access-Control-Allow-Origin" not in response.headers
