"""The blocking client is the async one: names, signatures, documentation, errors."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import Any

import pytest

import mb_core
import mb_sync
from mb_broker import RunningBroker
from mb_core import LocalProtocolError
from mb_sync.docstrings import blocking_doc

ASYNC, SYNC = mb_core.MessageBrokerClient, mb_sync.MessageBrokerClient


def public(owner: type) -> list[str]:
    classes = reversed(owner.__mro__)
    return [name for each in classes for name in vars(each) if not name.startswith("_")]


def parameters(function: Any) -> list[tuple[Any, ...]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default, each.annotation) for each in found]


def test_the_clients_have_the_same_names() -> None:
    assert sorted(public(SYNC)) == sorted(public(ASYNC))


@pytest.mark.parametrize("name", ["__init__", *(name for name in public(ASYNC))])
def test_the_methods_take_the_same(name: str) -> None:
    if isinstance(getattr(ASYNC, name), property):
        assert isinstance(getattr(SYNC, name), property)
        return
    assert parameters(getattr(SYNC, name)) == parameters(getattr(ASYNC, name))


@pytest.mark.parametrize("name", public(ASYNC))
def test_the_methods_are_documented_alike(name: str) -> None:
    own = inspect.getdoc(getattr(SYNC, name))
    assert own
    if name not in ("subscribe", "follow_log"):  # they are in force at once, and say so
        assert own == blocking_doc(inspect.getdoc(getattr(ASYNC, name)) or "")
        assert "await" not in own


def test_a_subscription_has_the_names_of_the_async_one() -> None:
    within = {"handled", "iterate", "unsubscribe_nowait"}
    within |= set(public(Coroutine))  # the async one is a coroutine, for event loops
    own = set(public(mb_sync.Subscription)) - {"receive", "topic"}  # topic: an attribute there
    assert own == set(public(mb_core.Subscription)) - within


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"connect_timeout": 0}, "invalid connect_timeout 0"),
        ({"buffer_overflow": "explode"}, "buffer_overflow"),
        ({"publish_buffer": -1}, "publish_buffer"),
        ({"codec": "morse"}, "morse"),
    ],
)
def test_wrong_options_raise_the_same_error(options: dict[str, Any], fault: str) -> None:
    errors = []
    for kind in (ASYNC, SYNC):
        with pytest.raises(mb_core.MBError, match=fault) as raised:
            kind(**options)
        errors.append(raised.value)
    assert type(errors[0]) is type(errors[1])
    assert str(errors[0]) == str(errors[1])


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.request("a.b", 1),
        lambda client: client.publish("a.b", 1),
        lambda client: client.publish("a.b", 1, confirm=True),
        lambda client: client.subscribe("a.b"),
        lambda client: client.unsubscribe("a.b"),
        lambda client: client.register_service("a", "b"),
        lambda client: client.run(),
    ],
)
def test_whoever_is_not_connected_is_told_what_to_do(ask: Any) -> None:
    with pytest.raises(
        LocalProtocolError, match=r"^not connected: client\.connect\(\.\.\.\) first$"
    ):
        ask(SYNC("memory://nowhere"))


def test_a_front_end_is_chosen_by_its_name(mb_broker: RunningBroker) -> None:
    assert ("sync", "mb-sync") in [(each.name, each.distribution) for each in mb_core.frontends()]
    with mb_core.connect(mb_broker.url, frontend="sync", heartbeat_interval=None) as client:
        assert isinstance(client, SYNC)
        assert client.connected
