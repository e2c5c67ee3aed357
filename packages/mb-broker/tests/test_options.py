"""The broker's settings: one table of names, defaults and bounds, and errors that name them."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from typing import Any, get_type_hints

import anyio
import pytest
from msgspec.structs import asdict

from mb_broker import Broker, BrokerOptions, Router, RouterOptions
from mb_broker.options import BrokerSettings, complete_options, option_table
from mb_client import MessageBrokerClient
from mb_core import LocalProtocolError

DEFAULTS: dict[str, Any] = {
    "max_connections": 10_000,
    "max_payload": 16_384,
    "max_header": 367,
    "max_unread": 16_777_216,
    "max_unread_total": 268_435_456,
    "max_subscriptions": 10_000,
    "max_subscriptions_total": 1_000_000,
    "max_outstanding": 10_000,
    "max_handshakes": 1_000,
    "handshake_timeout": 10_000,
    "close_timeout": 5_000,
    "request_timeout": 5_000,
    "heartbeat_after": 30_000,
    "drop_after": 60_000,
    "drain_timeout": 5_000,
    "origins": [],
    "page": True,
    "metrics": True,
    "access": None,
}
NUMBERS = [name for name, default in DEFAULTS.items() if type(default) is int]
TIMES = [name for name in NUMBERS if name.endswith(("timeout", "after"))]


def settings_of(options: dict[str, Any]) -> BrokerSettings:
    return complete_options(options, BrokerSettings)


def test_every_option_has_its_default() -> None:
    assert asdict(complete_options({}, BrokerSettings)) == DEFAULTS


def test_a_broker_without_options_has_the_defaults_and_its_router_the_same() -> None:
    assert asdict(Broker().options) == DEFAULTS
    options = RouterOptions()
    for name in ("max_payload", "max_header", "max_subscriptions", "max_outstanding"):
        assert getattr(options, name) == DEFAULTS[name]
    for name in ("request_timeout", "heartbeat_after", "drop_after"):
        assert getattr(options, name) == DEFAULTS[name] / 1000
    assert Router().options == options


def test_the_table_lists_each_with_kind_unit_and_what_it_does() -> None:
    table = list(option_table())
    assert {option.name: option.default for option in table} == DEFAULTS
    hints = get_type_hints(BrokerOptions)
    # A path may be an object; the option is its text.
    assert hints.pop("access") == str | os.PathLike[str] | None
    assert hints == {option.name: option.kind for option in table if option.name != "access"}
    for option in table:
        assert option.unit == (
            "ms"
            if option.name in TIMES
            else "bytes"
            if option.name in ("max_payload", "max_header", "max_unread", "max_unread_total")
            else "file"
            if option.name == "access"
            else ""
        )
        assert option.about.endswith(".")
        assert option.kind in (int, bool, list[str]) or option.name == "access"


def test_given_options_replace_defaults_and_leave_the_others() -> None:
    given = {"max_connections": 1, "origins": ["https://a.b"], "page": False}
    assert asdict(complete_options(given, BrokerSettings)) == {**DEFAULTS, **given}


def test_defaults_are_not_shared() -> None:
    complete_options({}, BrokerSettings).origins.append("https://a.b")
    assert complete_options({}, BrokerSettings).origins == []


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_has_a_least_value(name: str) -> None:
    least = {
        "drain_timeout": 0,
        "max_unread": 262_144,
        "max_unread_total": 262_144,
        "max_header": 128,
    }.get(name, 1)
    assert getattr(complete_options({name: least}, BrokerSettings, together=False), name) == least
    for below in (least - 1, -1):
        with pytest.raises(LocalProtocolError) as refused:
            complete_options({name: below}, BrokerSettings)
        text = str(refused.value)
        assert text.startswith(f"invalid {name} {below}: must be a whole number")
        assert re.search(rf"\b{least} (or more|to )", text)


@pytest.mark.parametrize("name", TIMES)
def test_a_time_is_at_most_a_day(name: str) -> None:
    assert (
        getattr(complete_options({name: 86_400_000}, BrokerSettings, together=False), name)
        == 86_400_000
    )
    with pytest.raises(LocalProtocolError, match=f"invalid {name} 86400001: .* to 86400000"):
        complete_options({name: 86_400_001}, BrokerSettings)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"max_connections": "5"},
            "invalid max_connections '5': must be a whole number, 1 or more",
        ),
        ({"max_connections": True}, "invalid max_connections True: must be a whole number"),
        ({"max_connections": 1.5}, "invalid max_connections 1.5: must be a whole number"),
        ({"max_connections": None}, "invalid max_connections None: must be a whole number"),
        ({"max_payload": "x"}, "invalid max_payload 'x': must be a whole number of bytes"),
        (
            {"drain_timeout": "x"},
            "invalid drain_timeout 'x': must be a whole number of milliseconds from 0 to 86400000",
        ),
        ({"page": 1}, "invalid page 1: must be true or false"),
        ({"page": "true"}, "invalid page 'true': must be true or false"),
        ({"origins": "https://a.b"}, "invalid origins 'https://a.b': must be a list of strings"),
        ({"origins": ["https://a.b", 5]}, "invalid origins ['https://a.b', 5]: must be a list"),
        ({"origins": None}, "invalid origins None: must be a list of strings"),
        ({"max_payload": 1, "drop_after": 0}, "invalid drop_after 0: must be"),
    ],
    ids=repr,
)
def test_a_value_that_can_not_be_is_named_with_what_it_must_be(
    given: Mapping[str, Any], text: str
) -> None:
    for make in (settings_of, lambda options: Broker(**options)):
        with pytest.raises(LocalProtocolError) as refused:
            make(given)
        assert str(refused.value).startswith(text)


@pytest.mark.parametrize("name", ["max_conections", "max-connections", "max_connection"])
def test_a_name_that_is_nearly_an_option_is_a_type_error_with_the_option(name: str) -> None:
    with pytest.raises(TypeError) as refused:
        complete_options({name: 1}, BrokerSettings)
    assert str(refused.value) == f"unknown option {name!r}; did you mean 'max_connections'?"


@pytest.mark.parametrize("name", ["colour", "MAX_CONNECTIONS", ""])
def test_a_name_that_is_no_option_is_a_type_error_with_all_that_are(name: str) -> None:
    with pytest.raises(TypeError) as refused:
        complete_options({name: 1}, BrokerSettings)
    assert repr(name) in str(refused.value)
    assert ", ".join(DEFAULTS) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_connections", "5", 5),
        ("max_connections", 5, 5),
        ("drain_timeout", "0", 0),
        ("page", "false", False),
        ("page", "0", False),
        ("page", "TRUE", True),
        ("page", "1", True),
        ("page", False, False),
        ("origins", ["https://a.b"], ["https://a.b"]),
    ],
)
def test_lax_takes_texts_as_the_environment_has_them(name: str, text: Any, value: Any) -> None:
    assert getattr(complete_options({name: text}, BrokerSettings, lax=True), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_connections", ""),
        ("max_connections", "many"),
        ("max_connections", "1.5"),
        ("max_connections", "0"),
        ("max_connections", "-1"),
        ("max_connections", " 5"),
        ("close_timeout", "86400001"),
        ("page", "perhaps"),
        ("page", ""),
        ("origins", "https://a.b"),
    ],
)
def test_lax_refuses_texts_that_are_no_such_value(name: str, text: str) -> None:
    with pytest.raises(LocalProtocolError) as refused:
        complete_options({name: text}, BrokerSettings, lax=True)
    assert str(refused.value).startswith(f"invalid {name} {text!r}: ")


def test_options_may_be_those_of_a_table_made_like_it() -> None:
    class More(BrokerSettings, kw_only=True):
        pass

    assert [option.name for option in option_table(More)] == list(DEFAULTS)
    assert complete_options({"max_connections": 3}, More).max_connections == 3


def test_a_broker_documents_where_its_options_are() -> None:
    assert "BrokerOptions" in (inspect.getdoc(Broker) or "")


def test_a_client_is_dropped_later_than_it_is_asked_for_a_sign_of_life() -> None:
    for make in (settings_of, lambda options: Broker(**options)):
        for given in ({"drop_after": 30_000}, {"heartbeat_after": 60_000}):
            with pytest.raises(LocalProtocolError, match="must be longer than heartbeat_after"):
                make(given)


@pytest.mark.parametrize("name", ["max_unread", "max_unread_total"])
def test_what_may_wait_for_a_client_holds_the_largest_message(name: str) -> None:
    for make in (settings_of, lambda options: Broker(**options)):
        with pytest.raises(LocalProtocolError) as refused:
            make({name: 1_000_000, "max_payload": 1_000_000})
        text = str(refused.value)
        assert text.startswith(f"{name} (1000000 bytes) must be ")
        assert text.endswith(f"raise {name} or lower max_payload")
    least = int(text.split(" must be ")[1].split()[0])
    assert 1_000_000 + 367 < least < 1_010_000
    complete_options({name: least, "max_payload": 1_000_000}, BrokerSettings)
    with pytest.raises(LocalProtocolError):
        complete_options({name: least - 1, "max_payload": 1_000_000}, BrokerSettings)


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])
async def test_the_largest_message_reaches_a_client_where_no_more_may_wait(scheme: str) -> None:
    size = 4_000_000
    message = size + 367
    least = message + message // 256 + 64
    host = "" if scheme == "memory" else "127.0.0.1:0"
    async with (
        Broker(
            f"{scheme}://{host}", max_payload=size, max_unread=least, max_unread_total=least
        ) as broker,
        MessageBrokerClient(broker.url, max_payload=size) as client,
    ):
        with anyio.fail_after(30):
            async with client.subscribe("large") as received:
                payload = "x" * (size - 2)
                await client.publish("large", payload, confirm=True)
                assert (await anext(aiter(received))).payload == payload
