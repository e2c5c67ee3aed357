"""Every option of every public constructor refuses values of a wrong type when it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

import mb_core
import mb_sync
from mb_broker import Broker, running
from mb_broker.options import option_table
from mb_core import LocalProtocolError
from mb_core.raw_clients import RawClient


def run(*urls: Any, **options: Any) -> None:
    with running(*urls, **options):
        pass


CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "mb_core": mb_core.MessageBrokerClient,
    "mb_sync": mb_sync.MessageBrokerClient,
    "websocket": mb_core.WebSocketClient,
    "tcp": mb_core.TCPSocketClient,
    "broker": Broker,
    "running": run,
}
# Beside an object and an imaginary number, which no option takes.  Texts are codecs, URLs, tokens
# and paths, which are looked at later, and True is a switch.
TEXTS = {"url", "codec", "token", "access"}
DEPRECATED = {"faults"}  # what it takes goes to another option


def options_of(make: Callable[..., Any]) -> list[str]:
    if make in (Broker, run):
        named = [each.name for each in inspect.signature(Broker).parameters.values()]
        broker_s = [each.name for each in option_table()]
        return [name for name in named if name not in {"urls", "options", *DEPRECATED}] + broker_s
    if make is mb_core.TCPSocketClient:
        make = RawClient  # whose options it passes on
    return list(inspect.signature(make).parameters)


def switches() -> set[str]:
    client = inspect.signature(mb_core.MessageBrokerClient).parameters.values()
    found = {each.name for each in client if isinstance(each.default, bool)}
    return found | {each.name for each in option_table() if each.kind is bool}


CASES = [
    pytest.param(make, name, wrong, id=f"{label}-{name}-{type(wrong).__name__}")
    for label, make in CONSTRUCTORS.items()
    for name in options_of(make)
    for wrong in (object(), 1j, True, "no")
    if not (wrong is True and name in switches()) and not (wrong == "no" and name in TEXTS)
]


@pytest.mark.parametrize(("make", "name", "wrong"), CASES)
def test_an_option_of_a_wrong_type_is_refused_by_its_name_and_value(
    make: Callable[..., Any], name: str, wrong: object
) -> None:
    with pytest.raises(LocalProtocolError) as raised:
        make(**{name: wrong})
    text = str(raised.value)
    assert text.startswith(f"invalid {name} {wrong!r}"[:60]), text
    assert any(word in text for word in ("expected ", "must be ", "one of ", "a number of")), text


@pytest.mark.parametrize(
    "url", [5, True, b"tcp://h:1", ["tcp://h:1", 5], [None], {"tcp://h:1": 1}, iter(["tcp://h:1"])]
)
@pytest.mark.parametrize("label", ["mb_core", "mb_sync"])
def test_urls_are_texts(label: str, url: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"^invalid url .*: expected a string such as "):
        CONSTRUCTORS[label](url)


@pytest.mark.anyio
@pytest.mark.parametrize("label", ["mb_core", "mb_sync", "websocket", "tcp"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((5,), "invalid host 5: expected a string"),
        ((b"localhost", 1), "invalid host b'localhost': expected a string"),
        (("localhost", 1, "no"), "invalid use_tls 'no': expected True or False"),
    ],
)
async def test_what_connect_takes_is_checked_too(
    label: str, arguments: tuple[Any, ...], told: str
) -> None:
    client = CONSTRUCTORS[label]()
    connect = client.connect
    if label == "mb_sync":
        connect = partial(anyio.to_thread.run_sync, client.connect)
    with pytest.raises(LocalProtocolError) as raised:
        await connect(*arguments)
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize("url", [5, True, b"tcp://h:1", ["tcp://h:1"], None])
@pytest.mark.parametrize("label", ["broker", "running"])
def test_urls_to_listen_on_are_texts(label: str, url: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"^invalid URL .*: expected a string such as "):
        CONSTRUCTORS[label](url)


def test_a_secret_in_a_url_of_a_wrong_type_is_not_shown() -> None:
    with pytest.raises(LocalProtocolError) as raised:
        mb_core.MessageBrokerClient(b"ws://host/?token=secret")  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)
