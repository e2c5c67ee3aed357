"""The URLs of brokers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import ConnectError
from mb_core.url import URL, parse_url, redacted


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("tcp://localhost:8081", URL("tcp", "localhost", 8081, "")),
        ("tcp://localhost", URL("tcp", "localhost", None, "")),
        ("tcp://localhost:", URL("tcp", "localhost", None, "")),
        ("tcp://127.0.0.1:0", URL("tcp", "127.0.0.1", 0, "")),
        ("tcp://h:65535", URL("tcp", "h", 65535, "")),
        ("WSS://Broker.Example:8443/", URL("wss", "broker.example", 8443, "/")),
        ("ws://h/mb/v1?key=a&b=c", URL("ws", "h", None, "/mb/v1?key=a&b=c")),
        ("ws://h?key=a", URL("ws", "h", None, "?key=a")),
        ("tcp://[::1]:8081", URL("tcp", "::1", 8081, "")),
        ("tcp://[fe80::1%eth0]", URL("tcp", "fe80::1%eth0", None, "")),
        ("memory://", URL("memory", "", None, "")),
        ("memory://Orders", URL("memory", "orders", None, "")),
        ("x-my.carrier+v1://pigeon", URL("x-my.carrier+v1", "pigeon", None, "")),
        (" tcp://localhost:8081\n", URL("tcp", "localhost", 8081, "")),
    ],
)
def test_a_url_has_its_parts(text: str, url: URL) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "localhost:8081",
        "//localhost:8081",
        "://localhost:8081",
        "tcp:localhost:8081",
        "tcp:/localhost",
        "tcp:host://x",
        "1tcp://localhost",
        "my_scheme://localhost",
        "t cp://localhost",
        "täp://localhost",
    ],
)
def test_what_is_no_url_is_shown_one(text: str) -> None:
    with pytest.raises(ConnectError, match=r"invalid URL .*scheme://host:port"):
        parse_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "tcp://h:65536",
        "tcp://h:-1",
        "tcp://h:http",
        "tcp://h:\uff18\uff10",
        "tcp://::1:8081",
        "tcp://[::1",
        "tcp://::1]:5",
        "tcp://a\0b:1",
        "tcp://a b:1",
        "tcp://h\u2100x:1",  # a character that turns into a slash where names are normalized
    ],
)
def test_a_url_with_a_broken_part_is_refused(text: str) -> None:
    with pytest.raises(ConnectError, match="invalid URL"):
        parse_url(text)


@pytest.mark.parametrize("port", ["65536", "-1", "http", "8081:9", "9" * 5_000])
def test_an_invalid_port_is_named_as_such(port: str) -> None:
    with pytest.raises(ConnectError) as raised:
        parse_url(f"tcp://h:{port}")
    assert str(raised.value) == (
        f"invalid URL 'tcp://h:{port}': the port must be a number from 0 to 65535"
    )
    assert raised.value.final
    with pytest.raises(ConnectError, match=r"65535$"):
        parse_url(f"tcp://[::1]:{port}")


@pytest.mark.parametrize("text", ["tcp://::1:8081", "tcp://::1:http", "tcp://fe80::2"])
def test_an_ipv6_address_without_brackets_is_told_to_have_them(text: str) -> None:
    with pytest.raises(ConnectError, match=r"needs brackets, as in tcp://\[::1\]:8081"):
        parse_url(text)


@pytest.mark.parametrize("text", ["tcp://user@h", "tcp://user:secret@h:1", "tcp://:secret@h:1"])
def test_credentials_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConnectError, match="no user name and no password") as raised:
        parse_url(text)
    assert "secret" not in str(raised.value)


urls = st.builds(
    URL,
    st.sampled_from(["tcp", "tls", "ws", "wss", "memory", "x-y"]),
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True)
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str),
    st.none() | st.integers(0, 65535),
    st.sampled_from(["", "/", "/a/b", "/a?b=c", "?b"]),
)


@given(urls)
def test_a_url_is_read_as_it_is_written(url: URL) -> None:
    assert parse_url(url.full) == url


@given(st.text(max_size=12) | st.text("tcp:/[]@?#.1a%", max_size=12).map("tcp://{}".format))
def test_any_text_is_a_url_or_a_connect_error(text: str) -> None:
    try:
        url = parse_url(text)
    except ConnectError:
        return
    assert parse_url(url.full) == url


def test_a_url_is_a_value() -> None:
    assert len({parse_url("tcp://h:1"), parse_url("TCP://H:1")}) == 1


# What may be a secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tcp://h:1", "tcp://h:1"),
        ("ws://h/mb/?token=SECRET", "ws://h/mb/?***"),
        ("ws://h?SECRET", "ws://h?***"),
        ("ws://h/?a=SECRET?SECRET#SECRET", "ws://h/?***"),
        ("ws://h/#SECRET", "ws://h/?***"),
        ("ws://SECRET:SECRET@h:1/", "ws://***@h:1/"),
        ("ws://SECRET@SECRET@h", "ws://***@h"),
        ("ws://u:SEC#RET@h", "ws://***"),
        ("ws://u:SEC?RET@h/?t=SECRET", "ws://***"),
        ("u:SECRET@h", "***@h"),
        ("ws://h/?mail=SECRET@SECRET", "ws://***"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert "SECRET" not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "ws://h:99999/?token=SECRET",
        "ws://h:port/?token=SECRET",
        "h/?token=SECRET",
        "ws:h?SECRET",
        "ws://user:SECRET@h:1",
        "ws://user:SEC#RET@h:1",
        "ws://user:SEC/RET@h:1",
        "ws://[h/?token=SECRET",
        "ws://h h/?token=SECRET",
    ],
)
def test_errors_of_urls_hide_them(text: str) -> None:
    with pytest.raises(ConnectError) as raised:
        parse_url(text)
    error: BaseException | None = raised.value
    for piece in ("SEC", "RET"):
        assert piece not in str(error)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_url_shows_its_query_only_when_asked() -> None:
    url = parse_url("ws://h:1/mb?token=SECRET")
    assert (str(url), repr(url)) == ("ws://h:1/mb?***", "URL('ws://h:1/mb?***')")
    assert f"{url}" == str(url)
    assert url.__rich_repr__() == [("url", "ws://h:1/mb?***")]
    assert url.full == "ws://h:1/mb?token=SECRET"
    assert url.query == "token=SECRET"
    assert parse_url("ws://h:1/mb").query == ""


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("GET /mb?mode=ab&token=a%2FSECRET denied", "GET /mb?*** denied"),
        ("bad token a%2FSECRET!", "bad token ***!"),
        ("bad token a/SECRET!", "bad token ***!"),
        ("bad token a/SECR", "bad token ***"),  # cut
        ("mode ab is unknown", "mode ab is unknown"),
        ("", ""),
    ],
)
def test_what_a_server_repeats_of_a_query_is_hidden(said: str, shown: str) -> None:
    assert parse_url("ws://h/mb?mode=ab&token=a%2FSECRET").hidden_in(said) == shown


def test_a_short_query_hides_nothing() -> None:
    assert parse_url("ws://h/mb?a").hidden_in("a bad day") == "a bad day"
    assert parse_url("ws://h/mb").hidden_in("a bad day") == "a bad day"
