"""The WebSocket handshake without I/O: what each side accepts and refuses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.errors import ConnectError, RemoteProtocolError
from mb_core.url import URL, parse_url
from mb_core.wire import WireState
from mb_ws import client_wire, server_wire

from .wires import (
    LIMITS,
    REQUEST,
    TEXT,
    URL_OF_SERVER,
    close_code,
    close_frame,
    feed,
    frame,
    some_cuts,
)

texts = st.lists(st.text(max_size=60).map(str.encode), max_size=10)


# The handshake


def test_a_client_asks_first_and_a_server_waits() -> None:
    client, server = client_wire(URL_OF_SERVER, LIMITS), server_wire(LIMITS)
    assert client.state is server.state is WireState.HANDSHAKE
    assert server.data_to_send() == b""
    request = client.data_to_send()
    assert request.startswith(b"GET / HTTP/1.1\r\nHost: broker.example:8080\r\n")
    assert request.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("ws://broker.example", b"GET / HTTP", b"Host: broker.example\r\n"),
        (
            "ws://broker.example:8080/mb/v1?a=b",
            b"GET /mb/v1?a=b HTTP",
            b"Host: broker.example:8080",
        ),
        ("wss://broker.example:443/", b"GET / HTTP", b"Host: broker.example\r\n"),
        ("ws://[::1]:8080/\N{SNOWMAN}", b"GET /%E2%98%83 HTTP", b"Host: [::1]:8080\r\n"),
        ("ws://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", b"GET /", b"xn--bcher-kva"),
    ],
    ids=["default port", "path and query", "default TLS port", "IPv6 and unicode", "IDNA"],
)
def test_the_request_names_path_and_host_of_the_url(url: str, line: bytes, host: bytes) -> None:
    request = client_wire(parse_url(url), LIMITS).data_to_send()
    assert request.startswith(line)
    assert host in request


def test_no_subprotocol_and_no_compression_is_offered() -> None:
    request = client_wire(URL_OF_SERVER, LIMITS).data_to_send().lower()
    assert b"sec-websocket-protocol" not in request
    assert b"sec-websocket-extensions" not in request


@pytest.mark.parametrize(
    "url", [URL("ws", "", 8080, "/"), URL("ws", "\N{SNOWMAN}..x", 8080, "/")], ids=["empty", "IDNA"]
)
def test_a_host_that_is_none_is_a_final_connect_error(url: URL) -> None:
    with pytest.raises(ConnectError, match="invalid URL") as raised:
        client_wire(url, LIMITS)
    assert raised.value.final


@pytest.mark.parametrize(
    "header",
    [
        b"Origin: https://evil.example",
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        b"Sec-WebSocket-Protocol: mqtt, mb",
        b"Cookie: \xe9=\xff",
    ],
    ids=["origin", "compression", "subprotocol", "cookie"],
)
def test_a_server_takes_any_path_and_headers_and_negotiates_nothing(header: bytes) -> None:
    server = server_wire(LIMITS)
    request = REQUEST.replace(b"GET / ", b"GET /any/path?at=all ") + header + b"\r\n\r\n"
    assert server.receive_data(request) == []
    assert server.state is WireState.OPEN
    answer = server.data_to_send()
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer  # RFC 6455, 1.3
    assert b"sec-websocket-extensions" not in answer.lower()
    assert b"sec-websocket-protocol" not in answer.lower()


@settings(deadline=None)
@given(texts, some_cuts)
def test_frames_right_behind_the_handshake_are_received(
    messages: list[bytes], cuts: list[int]
) -> None:
    client, server = client_wire(URL_OF_SERVER, LIMITS), server_wire(LIMITS)
    frames = b"".join(frame(TEXT, message) for message in messages)
    # A client that does not wait for the answer breaks the rules, and is understood.
    assert feed(server, client.data_to_send() + frames, cuts) == messages
    for message in messages:
        server.send(message)
    assert feed(client, server.data_to_send(), cuts) == messages
    assert client.error is server.error is None


def test_a_close_right_behind_the_request_is_answered() -> None:
    server = server_wire(LIMITS)
    assert server.receive_data(REQUEST + b"\r\n" + frame(TEXT, b"one") + close_frame(1000)) == [
        b"one"
    ]
    assert server.data_to_send().endswith(close_frame(1000, mask=False))
    assert server.state is WireState.CLOSED
    assert server.error is None


def test_a_fault_right_behind_the_request_comes_after_the_answer() -> None:
    server = server_wire(LIMITS)
    assert server.receive_data(REQUEST + b"\r\n" + frame(TEXT, b"one") + b"\xff\xff") == [b"one"]
    assert isinstance(server.error, RemoteProtocolError)
    output = server.data_to_send()
    assert output.startswith(b"HTTP/1.1 101 ")
    assert close_code(output) == 1002


# A server refuses


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n", b"426 Upgrade Required"),
        (b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\nGET / HTTP/1.1\r\nHost: a.b\r\n\r\n", b"426 "),
        (b"HEAD / HTTP/1.1\r\nHost: a.b\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET / HTTP/1.0\r\n\r\n", b"505 HTTP Version Not Supported"),
        (REQUEST.replace(b"Version: 13", b"Version: 8") + b"\r\n", b"400 Bad Request"),
        (REQUEST.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff") + b"\r\n", b"400 Bad Request"),
        (REQUEST.replace(b"Upgrade: websocket", b"Upgrade: ,") + b"\r\n", b"400 Bad Request"),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", b"414 "),
        (REQUEST + b"X: " + b"x" * 10_000 + b"\r\n\r\n", b"431 "),
        (REQUEST + b"X: x\r\n" * 200 + b"\r\n", b"431 "),
    ],
    ids=[
        "a browser",
        "two requests",
        "HEAD",
        "HTTP/1.0",
        "version",
        "key",
        "upgrade",
        "long line",
        "long header",
        "many headers",
    ],
)
def test_a_request_that_is_no_handshake_gets_an_http_answer(request_: bytes, status: bytes) -> None:
    for cuts in ([], list(range(len(request_)))):
        server = server_wire(LIMITS)
        assert feed(server, request_, cuts) == []
        assert server.state is WireState.CLOSED
        assert isinstance(server.error, ConnectError)
        head, _, body = server.data_to_send().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"Connection: close" in head
        assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
        assert b"WebSocket" in body


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\0\x01\n", b"\0\0\0\x14publish:a.b:1.0.0\n{}", b"\n", b"GET /\r\n"],
    ids=["TLS", "TCP framing", "an empty line", "HTTP/0.9"],
)
def test_what_is_no_http_ends_the_handshake(data: bytes) -> None:
    server = server_wire(LIMITS)
    server.receive_data(data)
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, ConnectError)
    assert server.receive_data(REQUEST + b"\r\n") == []


# A client is refused


def refused(answer: bytes, *, eof: bool = False) -> ConnectError:
    """The error of a client that gets this answer."""
    client = client_wire(URL_OF_SERVER, LIMITS)
    client.data_to_send()
    assert client.receive_data(answer) == []
    if eof:
        assert client.state is WireState.HANDSHAKE
        client.receive_eof()
    assert client.state is WireState.CLOSED
    assert isinstance(client.error, ConnectError)
    return client.error


@pytest.mark.parametrize(
    ("header", "eof"),
    [(b"Content-Length: 18\r\n", False), (b"", True)],
    ids=["with a length", "up to the end of the stream"],
)
def test_a_refusal_says_status_and_body(header: bytes, eof: bool) -> None:
    error = refused(b"HTTP/1.1 403 Forbidden\r\n" + header + b"\r\nno access for you\n", eof=eof)
    assert str(error) == (
        "ws://broker.example:8080 refused the WebSocket handshake with HTTP status 403: "
        "no access for you"
    )


@pytest.mark.parametrize(
    "start", [b"<html>", b"\n<!DOCTYPE html>\n<HTML lang=en>", b"<?xml ?><html>"]
)
def test_a_page_for_browsers_is_not_shown(start: bytes) -> None:
    body = start + b"<h1>502 Bad Gateway</h1></html>"
    error = refused(b"HTTP/1.1 502 Bad\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert str(error).endswith("HTTP status 502 (a proxy in between can't reach the broker)")


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, r" \(it asks for credentials: pass a token, if it accepts one\)"),
        (403, ""),
        (407, r" \(a proxy in between asks for credentials\)"),
    ],
)
def test_a_refusal_for_who_we_are_is_final(status: int, hint: str) -> None:
    error = refused(b"HTTP/1.1 %d No\r\nContent-Length: 3\r\n\r\nwhy" % status)
    assert error.final
    assert re.search(rf"with HTTP status {status}{hint}: why$", str(error))


@pytest.mark.parametrize("status", [301, 400, 404, 426, 429, 500, 502, 503, 504])
def test_any_other_refusal_may_pass(status: int) -> None:
    assert not refused(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status).final


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000])
def test_a_refusal_in_http_1_0_is_read_as_any_other(size: int) -> None:
    client = client_wire(URL_OF_SERVER, LIMITS)
    answer = b"HTTP/1.0 401 Unauthorized\r\nContent-Length: 8\r\n\r\nHTTP/1.0"
    for start in range(0, len(answer), size):
        assert client.receive_data(answer[start : start + size]) == []
    assert isinstance(client.error, ConnectError)
    assert client.error.final
    assert str(client.error).endswith(
        "with HTTP status 401 (it asks for credentials: pass a token, if it accepts one): HTTP/1.0"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 abc"),
        (b"HTTP/2 200\r\n\r\n", "HTTP/2 200"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200, "no more than 128 headers"),
        # How it says that depends on the version of websockets.
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "many"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000_000, "no more than 1048576 bytes"),
    ],
    ids=["status", "HTTP/2", "headers", "length", "body"],
)
def test_an_answer_in_invalid_http_says_what_is_wrong_with_it(answer: bytes, why: str) -> None:
    error = str(refused(answer))
    assert error.startswith(
        "ws://broker.example:8080 answered the WebSocket handshake with invalid HTTP: "
    )
    assert why in error
    assert len(error) < 300


def test_a_server_that_closes_instead_of_answering_is_named() -> None:
    assert str(refused(b"", eof=True)) == (
        "ws://broker.example:8080 closed the connection during the WebSocket handshake"
    )


def test_a_refusal_without_a_body_says_the_status() -> None:
    error = refused(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    assert str(error).endswith("HTTP status 503 (it is not ready, or has no room)")


@pytest.mark.parametrize(
    ("status", "final"), [(301, True), (302, False), (303, False), (307, False), (308, True)]
)
def test_a_redirect_names_where_to_connect_instead(status: int, final: bool) -> None:
    location = "https://mb.example/mb?token=SECRET"
    error = refused(
        b"HTTP/1.1 %d Moved\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n"
        % (status, location.encode())
    )
    assert str(error) == (
        f"ws://broker.example:8080 redirects to https://mb.example/mb?*** (HTTP status {status}), "
        "and redirects are not followed: if a broker is there, connect to wss://mb.example/mb?***"
    )
    assert error.final is final


def test_a_redirect_may_be_to_another_path_of_the_same_server() -> None:
    error = refused(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /login\r\n\r\n")
    assert "connect to ws://" in str(error)
    assert str(error).endswith("/login")


def test_a_refusal_does_not_show_the_query_that_was_sent() -> None:
    wire = client_wire(parse_url("ws://h/mb?token=SECRET"), LIMITS)
    wire.data_to_send()
    body = b"cannot GET /mb?token=SECRET"
    wire.receive_data(b"HTTP/1.1 404 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert str(wire.error).endswith("404 (is the URL's path right?): cannot GET /mb?***")


LONG = "SECRET" * 40


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 No\r\nContent-Length: 17\r\n\r\nbad token: SECRET",  # the value alone
        b"HTTP/1.1 403 No\r\nContent-Length: 400\r\n\r\n" + b"-" * 160 + LONG.encode(),
        (
            b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: SECRET\r\n\r\n"
        ),
        b"\0\0GET /mb?token=SECRET HTTP/1.1\r\n",  # a server that sends back what it gets
        b"\0\0GET /mb?token=" + LONG.encode() + b"\r\n",
        b"HTTP/1.1 400 No\r\nGET /mb?token=SECRET\r\n\r\n",
        b"GET /mb?token=SECRET\r\n",
    ],
)
def test_no_answer_makes_an_error_show_a_part_of_the_query(answer: bytes) -> None:
    secret = LONG if LONG.encode() in answer else "SECRET"
    wire = client_wire(parse_url(f"ws://h/mb?mode=x&token={secret}"), LIMITS)
    wire.data_to_send()
    wire.receive_data(answer)
    wire.receive_eof()
    assert "ws://h/mb?***" in str(wire.error)
    assert "SECRET" not in str(wire.error)
    assert "***" in str(wire.error).replace("ws://h/mb?***", "")


@pytest.mark.parametrize("together", [True, False], ids=["with the handshake", "later"])
def test_a_reason_to_close_does_not_show_the_query(together: bool) -> None:
    client = client_wire(parse_url("ws://h/mb?token=SECRET"), LIMITS)
    server = server_wire(LIMITS)
    server.receive_data(client.data_to_send())
    answer, farewell = server.data_to_send(), close_frame(4001, "bad token: SECRET", mask=False)
    for data in [answer + farewell] if together else [answer, farewell]:
        client.receive_data(data)
    assert str(client.error).endswith("bad token: ***")


def test_an_invalid_url_does_not_show_its_query() -> None:
    with pytest.raises(ConnectError) as raised:
        client_wire(URL("ws", "h", 1, "/?token=SECRET#SECRET"), LIMITS)
    assert "SECRET" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_of_a_long_or_binary_body_the_beginning_is_shown() -> None:
    body = b"\xff" + b"x" * 5000
    error = refused(b"HTTP/1.1 500 Oops\r\nContent-Length: 5001\r\n\r\n" + body)
    assert "500: \\xffxxx" in str(error)
    assert len(str(error)) < 400


UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "missing Connection header"),
        (UPGRADED.replace(b"websocket", b"h2c") % b"x", "invalid Upgrade header: h2c"),
        (UPGRADED % b"bm90IHRoaXM=", "invalid Sec-WebSocket-Accept header: bm90IHRoaXM="),
    ],
    ids=["no upgrade", "another upgrade", "the wrong key"],
)
def test_of_a_bad_upgrade_the_error_says_what_is_wrong(answer: bytes, fault: str) -> None:
    assert str(refused(answer)) == (
        "ws://broker.example:8080 answered the WebSocket handshake incorrectly (HTTP status 101): "
        f"{fault}"
    )


def test_a_page_in_place_of_a_handshake_points_at_the_proxy() -> None:
    error = refused(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<p>x")
    assert str(error) == (
        "ws://broker.example:8080 answered the WebSocket handshake with a page (HTTP status 200): "
        "is an MB broker listening there? (or does a proxy drop the Upgrade header?)"
    )
    assert not error.final


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\0\0\0\x1dpublish:system.initialize:1.0.0\n{}", "MB over TCP, which is for tcp://"),
        (b"220 mail.example ESMTP\r\n", r"b'220 mail.example ESMTP\r\n'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "received SSH"),
        (b"x" * 9000, "received b'xxx"),
    ],
    ids=["TCP framing", "SMTP", "SSH", "one long line"],
)
def test_an_answer_that_is_no_http_is_shown_and_asks_for_the_port(answer: bytes, told: str) -> None:
    error = refused(answer)
    assert told in str(error)
    assert "(is this a WebSocket port?)" in str(error)
    assert not error.final


def test_an_alert_of_tls_before_the_end_says_to_use_it() -> None:
    client = client_wire(URL_OF_SERVER, LIMITS)
    client.receive_data(b"\x15\x03\x03\0\x02\x02\x46")
    client.receive_eof()
    assert "received TLS, on a port with TLS (use tls:// or wss://)" in str(client.error)


def test_after_a_refusal_received_data_is_ignored() -> None:
    client = client_wire(URL_OF_SERVER, LIMITS)
    client.receive_data(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n" + frame(TEXT, mask=False))
    error = client.error
    assert client.receive_data(frame(TEXT, b"one", mask=False)) == []
    client.receive_eof()
    client.close()
    assert client.error is error


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("received", [b"", b"HTTP/1.1 101 Sw", b"GET / HTTP/1.1\r\nHost: a.b\r\n"])
def test_an_end_within_the_handshake_is_an_error(side: str, received: bytes) -> None:
    wire = client_wire(URL_OF_SERVER, LIMITS) if side == "client" else server_wire(LIMITS)
    wire.receive_data(received)
    wire.receive_eof()
    assert wire.state is WireState.CLOSED
    assert isinstance(wire.error, ConnectError)
