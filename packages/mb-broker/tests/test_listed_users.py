"""The list of services says which user each client is, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from mb_broker import RouterOptions
from mb_broker.access import Grants, Limits, Role, User

from .conftest import Bench, Peer, new_id
from .users import access_of

EVERYTHING = ["#"]
# Two roles that may do everything; only one of them may read who is connected.
WITH_LIST = Role(EVERYTHING, EVERYTHING, EVERYTHING, EVERYTHING, ["metrics", "services", "topics"])
WITHOUT_LIST = Role(EVERYTHING, EVERYTHING, EVERYTHING, EVERYTHING, ["metrics", "topics"])
SECRET = "quiet-user"


@pytest.fixture
def bench() -> Bench:
    users = [
        User("reader", Grants([WITH_LIST])),
        User(SECRET, Grants([WITHOUT_LIST])),
        User("other", Grants([WITHOUT_LIST]), Limits(5)),
    ]
    return Bench(RouterOptions(), access_of(users, Grants([WITHOUT_LIST])))


def join(bench: Bench, name: str) -> Peer:
    peer = bench.join()
    assert peer.ask("authenticate", {"token": f"mb_{name}"})["user"] == name
    return peer


def listed(peer: Peer, **page: Any) -> dict[str, Any]:
    services = peer.ask("service.list", page)["services"]
    return {service["id"]: service["user"] for service in services}


def test_each_client_is_listed_with_its_user(bench: Bench) -> None:
    reader, stranger, quiet = join(bench, "reader"), bench.join(), join(bench, SECRET)
    users = {reader.id: "reader", stranger.id: None, quiet.id: SECRET}
    assert listed(reader) == users
    assert listed(reader, limit=3) == users
    quiet.leave()
    assert listed(reader) == {reader.id: "reader", stranger.id: None}


def test_a_client_that_authenticates_later_is_listed_anew(bench: Bench) -> None:
    """Although the time at which it last sent something may be the same."""
    reader, late = join(bench, "reader"), bench.join()
    assert listed(reader)[late.id] is None
    assert late.ask("authenticate", {"token": "mb_other"})["user"] == "other"
    assert listed(reader)[late.id] == "other"


def test_a_broker_without_users_lists_what_it_always_did() -> None:
    peer = Bench().join()
    (service,) = peer.ask("service.list", {})["services"]
    assert list(service) == ["id", "name", "description", "connectedAt", "lastHeartbeat"]


@pytest.mark.parametrize("name", ["other", None])
def test_nobody_else_gets_to_know_a_users_name(name: str | None, bench: Bench) -> None:
    """Whatever a client without "services" asks for, and whatever the user does meanwhile."""
    spy = bench.join() if name is None else join(bench, name)
    quiet = join(bench, SECRET)
    seen: list[bytes] = []
    for action in ("publish", "request"):
        quiet.subscribe("a.b", action)
    for pattern in ("#", "a.b"):
        spy.subscribe(pattern)
    for topic in ("service.register", "topic.subscribe", "topic.unsubscribe", "message", "log"):
        payload = {"action": "publish", "topic": f"system.{topic}"}
        error = spy.ask("topic.subscribe", payload)
        seen.append(str(error).encode())
    quiet.ask("service.register", {"name": "Quiet", "description": "Says little"})
    quiet.send(f"publish:a.b:1.0.0:{new_id()}\n1", f"request:a.b:1.0.0:{new_id()}\n1")
    quiet.send("publish:system.log:1.0.0\n1", "request:system.message:1.0.0\n1")
    quiet.take()
    assert quiet.ask("service.list", {})["error"]["details"]["user"] == SECRET
    spy.send(f"request:a.b:1.0.0:{new_id()}\n1")
    for topic, wanted in (
        ("service.list", {}),
        ("service.subscriptions", {"serviceId": quiet.id}),
        ("topic.list", {}),
        ("topic.subscriptions", {}),
        ("metrics", {"showAll": True}),
        ("log.subscribe", {"levels": ["debug", "info", "warn", "error"]}),
        ("authenticate", {"token": "mb_wrong"}),
        ("authenticate", {"token": SECRET}),
    ):
        seen += spy.take()
        seen.append(str(spy.ask(topic, wanted)).encode())
    quiet.leave()
    seen += spy.take()
    assert SECRET.encode() not in b"".join(seen)
    assert quiet.id.encode() in b"".join(seen)  # it is seen, under its id
