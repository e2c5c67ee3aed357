"""From what the user says to where the connection goes."""

from __future__ import annotations

from typing import Any

import pytest

from mb_core.dialing import CONNECT_TO, stream_address
from mb_core.errors import ConnectError
from mb_core.transport import WireTransport
from mb_core.url import URL, broker_url, parse_url


def no_wire(*args: Any) -> Any:
    raise AssertionError("an address needs no wire")


TCP = WireTransport("tcp", no_wire, no_wire, default_port=8081)

# broker_url


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("localhost", 8080, "ws://localhost:8080"),
        ("127.0.0.1", 1, "ws://127.0.0.1:1"),
        ("Broker.Example", 65535, "ws://broker.example:65535"),
        ("localhost", 0, "ws://localhost:0"),
        ("::1", 8080, "ws://[::1]:8080"),
        ("[::1]", 8080, "ws://[::1]:8080"),
        ("fe80::1%eth0", 8080, "ws://[fe80::1%eth0]:8080"),
    ],
)
@pytest.mark.parametrize("use_tls", [False, True])
def test_host_and_port_get_the_default_scheme(
    host: str, port: int, expected: str, use_tls: bool
) -> None:
    url = broker_url(host, port, use_tls, "ws")
    assert str(url) == expected
    assert url.port == port


def test_a_url_is_taken_as_it_is() -> None:
    assert broker_url("tcp://h:1/p?q", None, False, "ws") == URL("tcp", "h", 1, "/p?q")


@pytest.mark.parametrize(("port", "use_tls"), [(8080, False), (0, False), (None, True)])
def test_a_url_leaves_nothing_to_say_beside_it(port: int | None, use_tls: bool) -> None:
    with pytest.raises(
        ConnectError, match="pass neither port nor use_tls with a URL, which has both: 'tcp://h:1'"
    ):
        broker_url("tcp://h:1", port, use_tls, "ws")


@pytest.mark.parametrize("port", [None, "8080", 8080.0], ids=repr)
@pytest.mark.parametrize("host", ["broker", "broker:8080"])
def test_a_host_needs_a_port(host: str, port: Any) -> None:
    expected = f"the host '{host}' needs a port: pass one, or a URL such as tcp://localhost:8081"
    with pytest.raises(ConnectError, match=f"^{expected}$"):
        broker_url(host, port, False, "ws")


@pytest.mark.parametrize("port", [-1, 65536, 10**9, True], ids=repr)
def test_a_port_that_can_not_be_is_refused(port: int) -> None:
    with pytest.raises(ConnectError, match="invalid URL"):
        broker_url("localhost", port, False, "ws")


@pytest.mark.parametrize(
    "host",
    [
        "localhost/mb",
        "localhost/",
        "localhost?a=b",
        "localhost#a",
        "/",
        "localhost:9000",
        "[::1]:9000",
        "user@localhost",
        "http:/localhost",
        "[::1",
    ],
)
def test_a_host_is_a_host_alone(host: str) -> None:
    with pytest.raises(ConnectError, match=r"invalid (host|URL)|no user name"):
        broker_url(host, 8080, False, "ws")


# stream_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tcp://h:9000", ("h", 9000)),
        ("tcp://h", ("h", 8081)),
        ("tcp://h:0", ("h", 0)),
        ("tcp://[::1]", ("::1", 8081)),
    ],
)
def test_a_connection_goes_where_the_url_says(url: str, address: tuple[str, int]) -> None:
    assert stream_address(parse_url(url), TCP, {}) == address


@pytest.mark.parametrize("url", ["tcp://", "tcp://:8081", "tcp:///path"])
def test_a_url_without_a_host_leads_nowhere(url: str) -> None:
    with pytest.raises(ConnectError, match="names no host"):
        stream_address(parse_url(url), TCP, {})


@pytest.mark.parametrize(
    ("url", "rules", "address"),
    [
        ("tcp://h:1", "h:1=127.0.0.1:2", ("127.0.0.1", 2)),
        ("tcp://h", "h:8081=other:2", ("other", 2)),
        ("tcp://H:1", "h:1=other:2", ("other", 2)),
        ("tcp://h:1", "H:1=other:2", ("other", 2)),
        ("tcp://h:1", " h:1 = other:2 ", ("other", 2)),
        ("tcp://h:1", "h:1=[::1]:2", ("::1", 2)),
        ("tcp://h:1", "h:1=::1:2", ("::1", 2)),
        ("tcp://[::1]:1", "[::1]:1=other:2", ("other", 2)),
        ("tcp://[::1]:1", "::1:1=other:2", ("other", 2)),
        ("tcp://h:1", "a:1=b:2,h:1=other:65535", ("other", 65535)),
        ("tcp://h:1", "h:1=first:2,h:1=second:2", ("first", 2)),
        ("tcp://h:1", ",, ,h:1=other:2,", ("other", 2)),
        ("tcp://h:1", "h:2=other:2", ("h", 1)),
        ("tcp://h:1", "hh:1=other:2", ("h", 1)),
        ("tcp://h:1", "other:2=h:1", ("h", 1)),
        ("tcp://h:1", "a:1=b:2,b:2=c:3", ("h", 1)),
        ("tcp://a:1", "a:1=b:2,b:2=c:3", ("b", 2)),
        ("tcp://h:1", "", ("h", 1)),
    ],
)
def test_a_rule_of_the_environment_sends_it_elsewhere(
    url: str, rules: str, address: tuple[str, int]
) -> None:
    assert stream_address(parse_url(url), TCP, {CONNECT_TO: rules}) == address


@pytest.mark.parametrize(
    "rule",
    ["h:1", "h:1=", "h:1=other", "h:1=:2", "h:1=other:", "h:1=o:x", "h:1=o:-1", "h:1=o:65536"],
)
def test_a_rule_that_applies_and_can_not_be_read_is_shown(rule: str) -> None:
    with pytest.raises(ConnectError, match=f"{CONNECT_TO} .*'{rule}'.*HOST:PORT=HOST:PORT"):
        stream_address(parse_url("tcp://h:1"), TCP, {CONNECT_TO: f"a:1=b:2, {rule}"})


def test_a_rule_is_read_from_the_environment_at_each_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = parse_url("tcp://h:1")
    assert stream_address(url, TCP) == ("h", 1)
    monkeypatch.setenv(CONNECT_TO, "h:1=other:2")
    assert stream_address(url, TCP) == ("other", 2)
