"""Which pages may connect to a broker from a browser, and under which host names."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.abc
import pytest

from mb_broker import Broker
from mb_broker.http import OriginPolicy
from mb_core import LocalProtocolError
from mb_core.wire import Visit

from .http_requests import UPGRADE, fetch

pytestmark = pytest.mark.anyio


def forbidden(
    origin: str | None = None,
    *,
    to: str | None,
    path: str | None = None,
    origins: Sequence[str] = (),
    hosts: Sequence[str] = ("127.0.0.1",),
) -> str | None:
    return OriginPolicy(origins, hosts).forbid(Visit(path, to, origin))


@pytest.mark.parametrize("host", ["broker.example:8080", "evil.example", "127.0.0.1:8080", None])
def test_programs_send_no_origin_and_may_connect_by_any_name(host: str | None) -> None:
    for origins in ([], ["https://one.example"], ["*"]):
        assert forbidden(None, to=host, origins=origins) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://192.0.2.7:8080", "192.0.2.7:8080"),
        ("https://192.0.2.7", "192.0.2.7"),
        ("https://192.0.2.7", "192.0.2.7:443"),
        ("http://192.0.2.7", "192.0.2.7:80"),
        ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080"),
        ("http://localhost:8080", "localhost:8080"),
        ("http://LOCALHOST:8080", "localhost:8080"),
        ("http://broker.example:8080", "broker.example:8080"),
        ("http://Broker.example:8080", "BROKER.example:8080"),
    ],
)
@pytest.mark.parametrize("origins", [[], ["https://other.example"]], ids=["default", "with a list"])
def test_the_brokers_own_page_may_connect(origin: str, host: str, origins: list[str]) -> None:
    assert forbidden(origin, to=host, origins=origins, hosts=["broker.example"]) is None
    assert forbidden(to=host, path="/", origins=origins, hosts=["broker.example"]) is None


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_broker_on_all_addresses_has_the_names_of_its_machine(
    wildcard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Box.lan.example")
    for name in ("box.lan.example", "box", "box.local"):
        host = f"{name}:8080"
        assert forbidden(f"http://{host}", to=host, hosts=[wildcard]) is None
        assert forbidden(f"http://{host}", to=host, hosts=["192.0.2.7"]) is not None


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "http://app.localhost",
        "https://127.0.0.1",
        "http://127.8.9.10:1",
        "http://[::1]:3000",
    ],
)
@pytest.mark.parametrize("origins", [[], ["https://other.example"]], ids=["default", "with a list"])
def test_pages_of_the_browsers_own_machine_may_connect(origin: str, origins: list[str]) -> None:
    assert forbidden(origin, to="broker.example:8080", origins=origins) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "127.0.0.1:8080"),
        ("http://evil.example:8080", "evil.example:8080"),  # its name leads to the broker
        ("http://evil:8080", "evil:8080"),
        ("http://192.0.2.7:9", "192.0.2.7:8080"),  # another server of the same machine
        ("http://192.0.2.7:8080", "127.0.0.1:8080"),
        ("http://127.0.0.1.evil.example", "127.0.0.1:8080"),
        ("http://localhost.evil.example", "localhost:8080"),
        ("http://evillocalhost", "localhost:8080"),
        ("http://127.0.0.1@evil.example", "127.0.0.1:8080"),
        ("http://", ""),
        ("null", "127.0.0.1:8080"),
        ("", "127.0.0.1:8080"),
        ("file://", "127.0.0.1:8080"),
        ("x", "x"),
        ("https://one.example.evil.example", "127.0.0.1:8080"),
        ("http://one.example", "127.0.0.1:8080"),  # https is listed
        ("https://one.example:444", "127.0.0.1:8080"),
        ("http://broker.example:8080", None),
    ],
)
def test_pages_of_other_sites_may_not_connect(origin: str, host: str | None) -> None:
    text = forbidden(origin, to=host, origins=["https://one.example"], hosts=["127.0.0.1"])
    assert text is not None
    assert origin in text
    assert "origins" in text
    assert forbidden(origin, to=host, origins=["*"]) is None


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example:8443", "https://app.example:8443"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_listed_origins_are_compared_as_browsers_send_them(listed: str, origin: str) -> None:
    assert forbidden(origin, to="127.0.0.1:8080", origins=[listed]) is None


def test_the_host_of_a_listed_origin_is_the_brokers_own_behind_a_proxy() -> None:
    origins = ["https://mb.example"]
    assert forbidden(to="mb.example", path="/", origins=origins) is None
    assert forbidden("https://mb.example", to="mb.example", origins=origins) is None
    # As nginx passes it on without `proxy_set_header Host`.
    assert forbidden("https://mb.example", to="127.0.0.1:8080", origins=origins) is None


@pytest.mark.parametrize(
    ("path", "host", "welcome"),
    [
        ("/", "evil.example:8080", False),
        ("/", "evil", False),
        ("/", "10.1.2.3:8080", True),
        ("/", None, True),
        ("/metrics", "evil.example:8080", False),
        ("/metrics", "broker:8080", True),  # a container's name, as scrapers use it
        ("/metrics", "10.1.2.3:8080", True),
        ("/metrics", None, True),
        ("/health", "evil.example:8080", True),
        ("/health", "10.1.2.3:8080", True),
        ("/nothing", "evil.example:8080", True),
    ],
)
def test_pages_are_read_by_names_that_no_web_site_can_have(
    path: str, host: str | None, welcome: bool
) -> None:
    text = forbidden(to=host, path=path)
    assert (text is None) is welcome
    if text is not None:
        assert text == (
            f"unknown Host {host!r}: add 'http://{host}' to the option origins to allow it"
        )
        assert forbidden(to=host, path=path, origins=[f"http://{host}"]) is None


@pytest.mark.parametrize(
    "origin", ["https://a.b/", "https://a.b/path", "a.b", "", "https://", "null", "https://*.a.b"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"an origin is scheme://host .* or \* for any"):
        Broker(origins=[origin])


@pytest.mark.parametrize(
    ("origin", "origins", "allowed"),
    [
        ("https://evil.example", [], False),
        ("https://evil.example", ["*"], True),
        ("https://one.example", ["https://one.example"], True),
        ("OWN", [], True),
        ("OWN", ["https://one.example"], True),
        (None, [], True),
        ("null", [], False),
    ],
)
async def test_a_browsers_handshake_is_judged_by_its_origin(
    origin: str | None, origins: list[str], allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0", origins=origins) as broker:
            assert await upgraded(broker, origin) is allowed
        refused = [text for text in caplog.messages if " refused: pages of the origin " in text]
        assert bool(refused) is not allowed


async def test_a_page_under_the_name_of_another_site_is_refused_with_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with anyio.fail_after(5):
        async with Broker("ws://127.0.0.1:0") as broker:
            answer = await fetch(broker.url, "/", host="evil.example:8080")
            assert answer.status == 403
            assert b"add 'http://evil.example:8080' to the option origins" in answer.body
    (text,) = caplog.messages
    assert " refused: unknown Host 'evil.example:8080': add " in text


async def upgraded(broker: Broker, origin: str | None) -> bool:
    """Whether a page of this origin gets a WebSocket, and on it the greeting in a text frame."""
    where = broker.url.partition("://")[2].strip("/")
    host, _, port = where.rpartition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        origin = f"http://{where}" if origin == "OWN" else origin
        header = f"Origin: {origin}\r\n" if origin is not None else ""
        await stream.send(f"GET / HTTP/1.1\r\nHost: {where}\r\n{UPGRADE}{header}\r\n".encode())
        received = b""
        try:
            while not received.endswith(b"system.initialize:1.0.0\n{}"):
                received += await stream.receive()
        except anyio.EndOfStream:
            assert received.startswith(b"HTTP/1.1 403 ")
            return False
        greeting = b"publish:system.initialize:1.0.0\n{}"
        assert received.startswith(b"HTTP/1.1 101 ")
        assert received.endswith(b"\r\n\r\n\x81" + bytes([len(greeting)]) + greeting)
        return True
