"""Tokens in the header `Authorization: Bearer`: those that a client sends, and a server reads."""

from __future__ import annotations

import logging

import pytest

from mb_core.authenticators import NO_CREDENTIALS, Credentials
from mb_core.errors import ConnectError
from mb_core.url import URL, parse_url
from mb_core.wire import Limits, Page, Site, WireState
from mb_ws import WebSocketWire, client_wire, server_wire

from .wires import CONT, LIMITS, REQUEST, TEXT, URL_OF_SERVER, frame

SITE = Site(get=lambda path: Page(b"hello", "text/plain") if path == "/" else None)


def asked(*headers: bytes, site: Site | None = None) -> WebSocketWire:
    """Return a server that has read a handshake with these headers."""
    server = server_wire(LIMITS, site)
    request = REQUEST + b"".join(header + b"\r\n" for header in headers) + b"\r\n"
    assert server.receive_data(request) == []
    return server


@pytest.mark.parametrize(
    "token",
    ["a", "mb_Ab0-._~+/", "eyJh.eyJp.c2ln", "padded==", "x" * 4_000],
    ids=["short", "all characters", "JWT", "padded", "long"],
)
def test_a_clients_token_is_what_the_server_reads(token: str) -> None:
    client, server = client_wire(URL_OF_SERVER, LIMITS, token), server_wire(LIMITS, SITE)
    assert server.credentials == NO_CREDENTIALS
    request = client.data_to_send()
    assert f"\r\nAuthorization: Bearer {token}\r\n".encode() in request
    server.receive_data(request)
    assert server.state is WireState.OPEN
    assert server.credentials == Credentials(token=token)


@pytest.mark.parametrize("token", ["two words", "\xe9", "a|b", "=", "a=b", "a\r\nX-Evil: 1", ""])
def test_a_token_that_does_not_fit_into_the_header_is_not_sent(token: str) -> None:
    request = client_wire(URL_OF_SERVER, LIMITS, token).data_to_send()
    assert b"authorization" not in request.lower()
    assert request == request.replace(b"X-Evil", b"")
    assert b"authorization" not in client_wire(URL_OF_SERVER, LIMITS).data_to_send().lower()


@pytest.mark.parametrize("site", [None, SITE], ids=["no pages", "pages"])
@pytest.mark.parametrize(
    ("header", "token"),
    [
        (b"Authorization: Bearer abc", "abc"),
        (b"authorization:bEARER   abc  ", "abc"),
        (b"Authorization: Bearer 12|abc", "12|abc"),  # other senders have such tokens
        (b"Authorization: Basic dTpw", None),
        (b"Authorization: Basic Bearer", None),
        (b"Authorization: BearerToken abc", None),
        (b"Authorization:", None),
        (b"Proxy-Authorization: Bearer abc", None),
    ],
)
def test_a_server_reads_bearer_and_ignores_other_schemes(
    header: bytes, token: str | None, site: Site | None
) -> None:
    server = asked(header, site=site)
    assert server.state is WireState.OPEN
    assert server.credentials == Credentials(token=token)
    assert "abc" not in repr(server.credentials)


@pytest.mark.parametrize("site", [None, SITE], ids=["no pages", "pages"])
@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([b"Bearer"], "invalid Authorization header: expected 'Bearer TOKEN'"),
        ([b"Bearer SECRET SECRET"], "invalid Authorization header: expected 'Bearer TOKEN'"),
        ([b"Bearer SECRET\xe9"], "invalid Authorization header: expected 'Bearer TOKEN'"),
        ([b"Bearer SECRET\tx"], "invalid Authorization header: expected 'Bearer TOKEN'"),
        (
            [b"Bearer SECRET", b"Bearer SECRET"],
            "two Authorization headers: expected one (a proxy has to replace it)",
        ),
        (
            [b"Basic SECRET", b"Bearer SECRET"],
            "two Authorization headers: expected one (a proxy has to replace it)",
        ),
    ],
)
def test_an_invalid_header_is_refused_and_not_shown(
    headers: list[bytes], text: str, site: Site | None
) -> None:
    server = asked(*(b"Authorization: " + each for each in headers), site=site)
    assert isinstance(server.error, ConnectError)
    assert str(server.error) == text
    assert server.credentials == NO_CREDENTIALS
    answer = server.data_to_send()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(f"\r\n\r\n{text}\n".encode())


def test_the_header_does_not_matter_to_pages() -> None:
    server = server_wire(LIMITS, SITE)
    two = b"Authorization: Bearer\r\nAuthorization: Bearer\r\n"
    server.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n" + two + b"\r\n")
    assert server.data_to_send().startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.credentials == NO_CREDENTIALS


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization Bearer SECRET",
        b"Authorization: Bearer \0SECRET",
        b"Authorization: Bearer SECRET\x7f",
    ],
)
def test_a_token_in_an_invalid_line_is_not_shown(line: bytes) -> None:
    server = asked(line)
    assert str(server.error).startswith("invalid HTTP request: invalid HTTP header ")
    assert "SECRET" not in str(server.error)
    assert b"SECRET" not in server.data_to_send()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 No\r\nContent-Length: 17\r\n\r\nno SECRET-TOKEN !",
        b"HTTP/1.1 301 No\r\nLocation: http://h/SECRET-TOKEN/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Yes\r\nUpgrade: SECRET-TOKEN\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 SECRET-TOKEN\0\r\n\r\n",
        b"SECRET-TOKEN\r\n\r\n",
        b"\0" * 58 + b"SECRET-TOKEN\r\n\r\n",  # of which an error shows the beginning
    ],
)
def test_a_server_that_repeats_the_token_does_not_get_it_into_errors(answer: bytes) -> None:
    client = client_wire(URL_OF_SERVER, LIMITS, "SECRET-TOKEN")
    client.receive_data(answer)
    client.receive_eof()
    assert isinstance(client.error, ConnectError)
    assert "SECRET" not in str(client.error)


@pytest.mark.parametrize(
    ("token", "hint"),
    [
        (None, "it asks for credentials: pass a token, if it accepts one"),
        ("mb_x", "it, or a proxy in between, does not accept the token"),
        ("a b", "the token has characters that can't be sent in the Authorization header"),
    ],
)
def test_why_a_server_asks_for_credentials(token: str | None, hint: str) -> None:
    client = client_wire(parse_url("ws://broker.example"), LIMITS, token)
    client.receive_data(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(client.error, ConnectError)
    assert client.error.final
    assert str(client.error).endswith(f"with HTTP status 401 ({hint})")


def test_the_log_of_websockets_does_not_show_tokens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "mb_ws.websockets"):
        client = client_wire(URL("ws", "h", 1, "/"), Limits(), "SECRET")
        server = server_wire(Limits())
        server.receive_data(client.data_to_send())
        pieces = frame(TEXT, b'request:x\n{"token":"SECRET"', fin=False), frame(CONT, b"}")
        assert server.receive_data(b"".join(pieces)) == [b'request:x\n{"token":"SECRET"}']
        asked(b"Authorization: Bearer SECRET\0")
    assert "Authorization: ***" in caplog.text
    assert "< TEXT [27 bytes]" in caplog.text
    assert "SECRET" not in caplog.text
