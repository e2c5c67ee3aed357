"""WebSocket without I/O: client wired to server, and each to what the other never says."""

from __future__ import annotations

import logging
import re
import struct
import tracemalloc
from itertools import pairwise
from types import NoneType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.errors import ConnectError, MBError, MessageTooLarge, RemoteProtocolError
from mb_core.url import URL, parse_url
from mb_core.wire import Limits, WireState
from mb_ws import WebSocketWire, client_wire, server_wire

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
LIMITS = Limits(max_message=1000)
URL_OF_SERVER = URL("ws", "broker.example", 8080, "")

REQUEST = (
    b"GET / HTTP/1.1\r\n"
    b"Host: broker.example:8080\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)
"""A request as in RFC 6455, 1.3, without the empty line at its end."""


def connected(limits: Limits = LIMITS) -> tuple[WebSocketWire, WebSocketWire]:
    """A client and a server behind their handshake."""
    client, server = client_wire(URL_OF_SERVER, limits), server_wire(limits)
    assert server.receive_data(client.data_to_send()) == []
    assert client.receive_data(server.data_to_send()) == []
    assert client.state is server.state is WireState.OPEN
    return client, server


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0
) -> bytes:
    """A frame as RFC 6455, 5.2 has it; masked, as a client's are, with zeros."""
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 65_536:
        length = bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([bit | 127]) + size.to_bytes(8, "big")
    first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    return first + length + (bytes(4) if mask else b"") + payload


def close_frame(code: int, reason: str = "", *, mask: bool = True) -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode(), mask=mask)


def close_code(output: bytes) -> int:
    """The code in an unmasked close frame, which is the last thing in `output`."""
    start = output.rindex(bytes([0x80 | CLOSE]))
    code: int = struct.unpack("!H", output[start + 2 : start + 4])[0]
    return code


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given positions, which are taken modulo its length."""
    positions = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(positions)]


def feed(wire: WebSocketWire, data: bytes, cuts: list[int]) -> list[bytes]:
    return [message for piece in pieces(data, cuts) for message in wire.receive_data(piece)]


texts = st.lists(st.text(max_size=60).map(str.encode), max_size=10)
some_cuts = st.lists(st.integers(min_value=0), max_size=20)


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
    assert str(error).endswith("HTTP status 502 (a proxy on the way does not reach the broker)")


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, r" \(it asks for credentials, and a broker's URL carries none\)"),
        (403, ""),
        (407, r" \(a proxy on the way asks for credentials\)"),
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
        "with HTTP status 401 (it asks for credentials, and a broker's URL carries none): HTTP/1.0"
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


# Messages


def test_a_message_is_one_text_frame() -> None:
    client, server = connected()
    server.send("publish:a.b:1.0.0\né".encode())
    assert server.data_to_send() == frame(TEXT, "publish:a.b:1.0.0\né".encode(), mask=False)
    client.send(b"one")
    assert client.data_to_send()[:2] == bytes([0x80 | TEXT, 0x80 | 3])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10), some_cuts)
def test_a_message_in_fragments_is_one_message(parts: list[bytes], cuts: list[int]) -> None:
    _, server = connected()
    whole = b"".join(parts).hex().encode()
    data = b""
    for i, part in enumerate(parts):
        opcode, fin = TEXT if i == 0 else CONT, i == len(parts) - 1
        data += frame(opcode, part.hex().encode(), fin=fin) + frame(PING, b"in between")
    assert feed(server, data + frame(TEXT, b"next"), cuts) == [whole, b"next"]
    assert server.data_to_send() == len(parts) * frame(PONG, b"in between", mask=False)


def test_a_character_may_lie_in_two_fragments() -> None:
    _, server = connected()
    snowman = "\N{SNOWMAN}".encode()
    first, second = frame(TEXT, snowman[:1], fin=False), frame(CONT, snowman[1:])
    assert server.receive_data(first + second) == [snowman]


def test_a_ping_is_answered_and_a_pong_is_no_news() -> None:
    client, server = connected()
    assert server.receive_data(frame(PING, b"are you there") + frame(PONG, b"unasked")) == []
    assert server.data_to_send() == frame(PONG, b"are you there", mask=False)
    assert client.receive_data(frame(PING, mask=False)) == []
    assert client.data_to_send()[:2] == bytes([0x80 | PONG, 0x80])


@pytest.mark.parametrize(
    ("flood", "answer"),
    [
        pytest.param(b"\x89\x80\0\0\0\0", b"\x8a\x00", id="pings"),
        pytest.param(b"\x8a\x80\0\0\0\0", b"", id="pongs"),
        pytest.param(b"\x02\x80\0\0\0\0\x80\x80\0\0\0\0", b"", id="fragments"),
    ],
)
def test_a_flood_of_small_frames_is_read_little_by_little(flood: bytes, answer: bytes) -> None:
    _, server = connected()
    count = 1000
    before = server.receive_data(frame(TEXT, b"before") + flood * count + frame(TEXT, b"behind"))
    output = server.data_to_send()
    rounds = 0
    while server.held_back:
        before += server.receive_data(b"")
        output += server.data_to_send()
        rounds += 1
    assert rounds > 5
    assert before[0] == b"before"
    assert before[-1] == b"behind"
    assert output == answer * count


def test_what_comes_while_a_flood_is_read_is_behind_it() -> None:
    _, server = connected()
    server.receive_data(frame(PING) * 1000 + frame(TEXT, b"behind")[:3])
    assert server.held_back
    messages = server.receive_data(frame(TEXT, b"behind")[3:])
    assert messages == []
    while server.held_back:
        messages += server.receive_data(b"")
    assert messages == [b"behind"]


def test_a_flood_that_ends_in_a_fault_holds_nothing_back() -> None:
    _, server = connected()
    server.receive_data(frame(PING) * 1000 + frame(TEXT, b"x", mask=False))
    while server.held_back:
        server.receive_data(b"")
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)


def test_a_client_reads_a_flood_at_once() -> None:
    client, _ = connected()
    assert client.receive_data(frame(PING, mask=False) * 1000 + frame(TEXT, b"x", mask=False)) == [
        b"x"
    ]
    assert not client.held_back


# Limits


@pytest.mark.parametrize("from_client", [True, False], ids=["from a client", "from a server"])
def test_a_message_at_the_limit_is_taken_and_one_above_is_not(from_client: bool) -> None:
    client, server = connected()
    sender, receiver = (client, server) if from_client else (server, client)
    sender.send(b"x" * 1000)
    assert receiver.receive_data(sender.data_to_send()) == [b"x" * 1000]
    sender.send(b"before")
    sender.send(b"x" * 1001)
    assert receiver.receive_data(sender.data_to_send()) == [b"before"]
    assert receiver.state is WireState.CLOSED
    assert isinstance(receiver.error, MessageTooLarge)
    assert (receiver.error.size, receiver.error.limit) == (1001, 1000)
    # The other side is told, and says so.
    sender.receive_data(receiver.data_to_send())
    assert sender.state is WireState.CLOSED
    assert isinstance(sender.error, RemoteProtocolError)
    assert "1009" in str(sender.error)


def test_a_message_above_the_limit_is_refused_by_its_length_alone() -> None:
    _, server = connected()
    server.receive_data(bytes([0x80 | TEXT, 0x80 | 127]) + b"\xff" * 8)
    assert isinstance(server.error, MessageTooLarge)
    assert server.error.size == 2**64 - 1


def test_fragments_are_limited_in_sum() -> None:
    _, server = connected()
    data = frame(TEXT, b"x" * 600, fin=False) + frame(CONT, b"x" * 400)
    assert server.receive_data(data) == [b"x" * 1000]
    server.receive_data(frame(TEXT, b"x" * 600, fin=False) + frame(CONT, b"x" * 401))
    assert isinstance(server.error, MessageTooLarge)
    assert (server.error.size, server.error.limit) == (1001, 1000)


def test_empty_fragments_without_end_take_no_memory() -> None:
    _, server = connected()
    server.receive_data(frame(TEXT, b"one", fin=False))
    many = frame(CONT, fin=False) * 100
    server.receive_data(many)
    tracemalloc.start()
    try:
        for _ in range(100):
            server.receive_data(many)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000
    assert server.receive_data(frame(CONT, b", two")) == [b"one, two"]


@pytest.mark.parametrize("body", [b"", b"one", "\N{SNOWMAN}".encode(), b"\xff\x00", b"x" * 1000])
def test_binary_frames_are_messages_too_and_answered_with_text(body: bytes) -> None:
    _, server = connected()
    cut = len(body) // 2
    whole = frame(BINARY, body)
    parts = frame(BINARY, body[:cut], fin=False) + frame(PING) + frame(CONT, body[cut:])
    assert server.receive_data(whole + parts + frame(TEXT, b"text")) == [body, body, b"text"]
    server.data_to_send()
    server.send(b"answer")
    assert server.data_to_send() == frame(TEXT, b"answer", mask=False)


def test_a_client_reads_binary_frames_too() -> None:
    client, _ = connected()
    assert client.receive_data(frame(BINARY, b"one", mask=False)) == [b"one"]


# Faults


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, b"one", fin=False) + frame(BINARY, b"two"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, "\N{SNOWMAN}".encode()[:2]), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"ok", fin=False) + frame(CONT, b"\xff"), 1007),
        (frame(TEXT, b"one", mask=False), 1002),
        (frame(TEXT, b"one", rsv=4), 1002),
        (frame(3, b"one"), 1002),
        (frame(CONT, b"one"), 1002),
        (frame(TEXT, b"one", fin=False) + frame(TEXT, b"two"), 1002),
        (frame(PING, b"one", fin=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(CLOSE, b"x"), 1002),
        (close_frame(1005), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"one", fin=False) + close_frame(1000), 1002),
    ],
    ids=[
        "binary not continued",
        "no UTF-8",
        "cut UTF-8",
        "surrogate",
        "no UTF-8 in fragments",
        "unmasked",
        "compressed",
        "unknown opcode",
        "nothing to continue",
        "not continued",
        "fragmented ping",
        "long ping",
        "short close",
        "reserved close code",
        "close no UTF-8",
        "close within a message",
    ],
)
def test_a_fault_closes_with_its_code_and_whole_messages_before_it_are_given(
    data: bytes, code: int
) -> None:
    _, server = connected()
    received = server.receive_data(frame(TEXT, b"whole") + data + frame(TEXT, b"behind"))
    assert received == [b"whole"]
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)
    assert close_code(server.data_to_send()) == code
    error = server.error
    assert server.receive_data(frame(TEXT, b"later")) == []
    server.receive_eof()
    server.close()
    assert server.error is error
    assert server.data_to_send() == b""


def test_a_masked_frame_from_a_server_is_a_fault() -> None:
    client, server = connected()
    assert client.receive_data(frame(TEXT, b"one")) == []
    assert client.state is WireState.CLOSED
    assert isinstance(client.error, RemoteProtocolError)
    server.receive_data(client.data_to_send())
    assert "1002" in str(server.error)


# The end


@pytest.mark.parametrize("client_begins", [True, False], ids=["by the client", "by the server"])
def test_a_close_is_a_handshake_behind_everything_that_was_sent(client_begins: bool) -> None:
    client, server = connected()
    one, other = (client, server) if client_begins else (server, client)
    one.send(b"last words")
    one.close("bye")
    assert one.state is WireState.CLOSING
    other.send(b"crossing")
    assert other.receive_data(one.data_to_send()) == [b"last words"]
    assert other.state is WireState.CLOSED
    assert one.receive_data(other.data_to_send()) == [b"crossing"]
    assert one.state is WireState.CLOSED
    for wire in (one, other):
        wire.receive_eof()
        wire.close("again")
        assert wire.error is None
        assert wire.data_to_send() == b""


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1008, 1011, 1013, 4000])
def test_the_code_of_a_close_says_whether_it_is_an_error(code: int) -> None:
    client, _ = connected()
    close = frame(CLOSE, mask=False) if code == 1005 else close_frame(code, "why", mask=False)
    client.receive_data(close)
    assert client.state is WireState.CLOSED
    if code in (1000, 1001, 1005):
        assert client.error is None
    else:
        assert isinstance(client.error, RemoteProtocolError)
        assert str(client.error) == f"closed by the other side with code {code}: why"


def test_an_error_without_a_reason_is_told_as_such() -> None:
    client, _ = connected()
    client.receive_data(close_frame(1011, mask=False))
    assert "1011: no reason given" in str(client.error)


def test_a_long_reason_is_cut_at_a_character() -> None:
    client, server = connected()
    server.close("\N{SNOWMAN}" * 100)
    output = server.data_to_send()
    assert output[4:].decode() == "\N{SNOWMAN}" * 41  # 123 bytes
    client.receive_data(output)
    assert client.error is None


@pytest.mark.parametrize("side", ["client", "server"])
def test_an_end_of_a_client_that_was_never_heard_is_not_an_error(side: str) -> None:
    wire = connected()[side == "server"]
    wire.receive_eof()
    assert wire.state is WireState.CLOSED
    assert isinstance(wire.error, RemoteProtocolError if side == "client" else NoneType)


@pytest.mark.parametrize("length", range(9))
def test_an_end_without_a_close_is_an_error_between_messages_and_within(length: int) -> None:
    _, server = connected()
    whole = frame(TEXT, b"whole")
    assert server.receive_data(whole + frame(TEXT, b"half")[:length]) == [b"whole"]
    server.receive_eof()
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)
    assert server.receive_data(whole) == []
    error = server.error
    server.receive_eof()
    assert server.error is error


def test_a_ping_while_closing_is_answered_until_the_close_comes() -> None:
    client, server = connected()
    server.close()
    server.data_to_send()
    assert server.receive_data(frame(PING, b"hello") + frame(TEXT, b"more")) == [b"more"]
    assert server.data_to_send() == frame(PONG, b"hello", mask=False)
    assert server.state is WireState.CLOSING
    assert client.state is WireState.OPEN


def test_a_fault_while_closing_ends_it_at_once() -> None:
    _, server = connected()
    server.close()
    server.data_to_send()
    assert server.receive_data(frame(TEXT, b"whole") + frame(TEXT, b"\xff")) == [b"whole"]
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)
    assert server.data_to_send() == b""  # the close was sent


# Anything at all

chunks_of_frames = st.lists(
    st.binary(max_size=40)
    | st.builds(
        frame,
        st.integers(0, 15),
        st.binary(max_size=130),
        fin=st.booleans(),
        mask=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 0, 1, 4]),
    ),
    max_size=12,
)


def check_any(wire: WebSocketWire, chunks: list[bytes], ends: bool) -> None:
    """Nothing raises; once CLOSED, the wire is silent, and its reason stays."""
    error: MBError | None = None
    closed = False
    order = list(WireState)
    state = wire.state
    for chunk in chunks:
        messages = wire.receive_data(chunk)
        assert not (closed and messages)
        assert error is None or wire.error is error
        assert order.index(wire.state) >= order.index(state)
        state, error = wire.state, wire.error
        closed = state is WireState.CLOSED
        assert closed or error is None
        for message in messages:
            assert isinstance(message, bytes)
        output = wire.data_to_send()
        assert isinstance(output, bytes)
    if ends:
        wire.receive_eof()
        assert wire.state is WireState.CLOSED
    wire.close()
    wire.data_to_send()


@settings(max_examples=200, deadline=None)
@given(chunks_of_frames, st.booleans(), st.sampled_from(["client", "server"]))
def test_nothing_that_the_other_side_sends_raises(
    chunks: list[bytes], ends: bool, side: str
) -> None:
    client, server = connected()
    check_any(client if side == "client" else server, chunks, ends)


http_lines = st.lists(
    st.sampled_from(
        [
            *(line + b"\r\n" for line in REQUEST.split(b"\r\n")),
            b"HTTP/1.1 101 Switching Protocols\r\n",
            b"HTTP/1.1 404 Not Found\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Sec-WebSocket-Extensions: permessage-deflate;;\r\n",
            b"POST / HTTP/1.1\r\n",
            b"\n",
            close_frame(1000),
            frame(TEXT, b"one"),
        ]
    )
    | st.binary(max_size=10),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(http_lines, st.booleans(), st.booleans(), st.sampled_from(["client", "server"]))
def test_nothing_that_comes_in_the_handshake_raises(
    lines: list[bytes], joined: bool, ends: bool, side: str
) -> None:
    wire = client_wire(URL_OF_SERVER, LIMITS) if side == "client" else server_wire(LIMITS)
    check_any(wire, [b"".join(lines)] if joined else lines, ends)


def test_no_fault_of_the_other_side_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for data in [frame(TEXT, b"\xff"), frame(3), close_frame(1000), b""]:
        _, server = connected()
        server.receive_data(data)
        server.receive_eof()
    server_wire(LIMITS).receive_data(b"GET / HTTP/1.1\r\n\r\n")
    assert caplog.records == []
