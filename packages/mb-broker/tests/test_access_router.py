"""The Router with access control, without I/O: who may do what, and who gets to know of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mb_broker import RouterOptions
from mb_broker.access import Grants, Limits, Role, User

from .conftest import GREETING, Bench, Peer, new_id, system_request
from .users import access_of

OPERATOR = Role(
    publish=["#"],
    request=["#"],
    subscribe=["#"],
    respond=["#"],
    system=["message", "log", "metrics", "services", "topics"],
)
USERS = {
    "operator": Grants([OPERATOR]),
    "publisher": Grants([Role(publish=["a.#"])]),
    "requester": Grants([Role(request=["a.+"])]),
    "subscriber": Grants([Role(subscribe=["a.#"])]),
    "responder": Grants([Role(respond=["a.+"])]),
}
SYSTEM_REQUESTS = {
    "service.list": {},
    "service.subscriptions": {},
    "topic.list": {},
    "topic.subscriptions": {},
    "metrics": {},
    "log.subscribe": {"levels": ["debug"]},
}
OWN_REQUESTS = ["log.unsubscribe", "service.register", "topic.subscribe"]
FEEDS = ["message", "log", "service.register", "topic.subscribe", "topic.unsubscribe"]


def make(anonymous: Grants | None = None, **options: Any) -> Bench:
    users = [User(name, grants) for name, grants in USERS.items()]
    users.append(User("limited", USERS["operator"], Limits(max_priority=5, max_connections=1)))
    return Bench(RouterOptions(**options), access_of(users, anonymous))


@pytest.fixture
def bench() -> Bench:
    return make()


def join(bench: Bench, name: str) -> Peer:
    peer = bench.join()
    answer = peer.ask("authenticate", {"token": f"mb_{name}"})
    assert answer == {"status": "success", "user": name}
    return peer


def audit(peer: Peer) -> Peer:
    """Subscribe to the audit feed, which shows the answer to that as well."""
    message, _ = system_request("topic.subscribe", {"action": "publish", "topic": "system.message"})
    peer.send(message)
    assert peer.bench.router.registry.auditors == (peer.service,)
    peer.take()
    return peer


def refusal(peer: Peer, message: str) -> tuple[str, Any]:
    peer.send(message)
    error = peer.take_error()
    return error["code"], error.get("details")


def ask_error(peer: Peer, topic: str, payload: Any) -> dict[str, Any]:
    error: dict[str, Any] = peer.ask(topic, payload)["error"]
    return error


# Before a client has authenticated


@pytest.mark.parametrize("topic", ["a.b", "system.message", "system.metrics", "system.nothing"])
@pytest.mark.parametrize("action", ["publish", "request", "response"])
def test_a_stranger_is_unauthorized(action: str, topic: str, bench: Bench) -> None:
    listener = audit(join(bench, "operator").subscribe("#", "both"))
    stranger = bench.join()
    listener.take()
    code, _ = refusal(stranger, f"{action}:{topic}:1.0.0:{new_id()}\n{{}}")
    assert code == "UNAUTHORIZED"
    if action != "response":  # the audit feed shows what was refused; nothing else arrives
        assert all(b"publish:system.message" in message for message in listener.take())


@pytest.mark.parametrize(
    "topic", [*SYSTEM_REQUESTS, "log.unsubscribe", "service.register", "topic.subscribe"]
)
def test_a_stranger_gets_nothing_of_the_brokers_own(topic: str, bench: Bench) -> None:
    stranger = bench.join()
    payload = {"action": "publish", "topic": "a", "name": "x", "description": "y"}
    assert ask_error(stranger, topic, payload)["code"] == "UNAUTHORIZED"
    assert stranger.service.name == ""
    assert not stranger.service.subscriptions


def test_a_stranger_is_heard_and_may_give_signs_of_life(bench: Bench) -> None:
    stranger = bench.join()
    assert stranger.ask("heartbeat", {}) == {"status": "success"}
    stranger.send("response:system.heartbeat:1.0.0\n{}")
    assert stranger.take() == []


def test_errors_of_payloads_come_after_those_of_access(bench: Bench) -> None:
    stranger = bench.join()
    stranger.send(b"publish:a.b:1.0.0\n\xff")
    assert stranger.take_error()["code"] == "UNAUTHORIZED"
    stranger.send(b"request:system.metrics:1.0.0\n" + b"1" * 20_000)
    assert stranger.take_error()["code"] == "UNAUTHORIZED"


# Authenticating


def test_a_batch_may_begin_with_a_token(bench: Bench) -> None:
    subscriber = join(bench, "subscriber").subscribe("a.b")
    peer = bench.join()
    token = json.dumps({"token": "mb_publisher"})
    authenticate = f"request:system.authenticate:1.0.0:{new_id()}\n{token}"
    peer.send("publish:a.b:1.0.0\n1", authenticate, "publish:a.b:1.0.0\n2")
    assert [message.partition(b"\n")[2] for message in subscriber.take()] == [b"2"]


@pytest.mark.parametrize("payload", [{}, {"token": 5}, {"token": None}, {"token": ["mb_operator"]}])
def test_a_token_has_to_be_a_string(payload: Any, bench: Bench) -> None:
    error = ask_error(bench.join(), "authenticate", payload)
    assert (error["code"], error["message"]) == (
        "INVALID_REQUEST",
        "a token is required: a string",
    )


@pytest.mark.parametrize("token", ["", "mb_nobody", "x" * 10_000, "\ud800", "mb_Operator"])
def test_a_wrong_token_is_unauthorized_and_the_third_ends_the_connection(
    token: str, bench: Bench
) -> None:
    peer = bench.join()
    for _ in range(2):
        assert ask_error(peer, "authenticate", {"token": token})["code"] == "UNAUTHORIZED"
    bench.advance(1)
    assert bench.rejected == []
    assert ask_error(peer, "authenticate", {"token": token})["code"] == "UNAUTHORIZED"
    bench.advance(0)
    assert bench.rejected == [(peer, "sent 3 wrong tokens")]
    bench.advance(100)
    assert len(bench.rejected) == 1


def test_two_wrong_tokens_before_the_right_one_are_forgiven(bench: Bench) -> None:
    peer = bench.join()
    for _ in range(2):
        ask_error(peer, "authenticate", {"token": "mb_wrong"})
    assert peer.ask("authenticate", {"token": "mb_operator"})["user"] == "operator"
    bench.advance(15)
    assert bench.rejected == []


def test_a_stranger_has_until_handshake_timeout() -> None:
    bench = make(handshake_timeout=3.0)
    first = bench.join()
    bench.advance(1)
    second = bench.join()
    known = join(bench, "publisher")
    bench.advance(1.9)
    assert bench.rejected == []
    bench.advance(0.2)
    assert bench.rejected == [(first, "did not authenticate within 3000 ms (handshake_timeout)")]
    bench.advance(10)
    assert [peer for peer, _ in bench.rejected] == [first, second]
    assert known not in bench.dropped


def test_one_stranger_too_many_ends_the_oldest() -> None:
    bench = make(max_handshakes=2)
    strangers = [bench.join() for _ in range(3)]
    join(bench, "operator")
    bench.advance(0)
    assert [peer for peer, _ in bench.rejected] == strangers[:2]


def test_a_stranger_that_leaves_is_forgotten(bench: Bench) -> None:
    bench.join().leave()
    bench.advance(100)
    assert bench.rejected == []


def test_the_same_token_again_changes_nothing_and_another_is_refused(bench: Bench) -> None:
    peer = join(bench, "subscriber").subscribe("a")
    assert peer.ask("authenticate", {"token": "mb_subscriber"})["user"] == "subscriber"
    error = ask_error(peer, "authenticate", {"token": "mb_operator"})
    assert error["code"] == "INVALID_REQUEST"
    assert "belongs to 'subscriber'" in error["message"]
    assert "operator" not in error["message"]
    assert peer.service.user is not None
    assert peer.service.user.name == "subscriber"


def test_a_user_has_no_more_connections_than_it_may(bench: Bench) -> None:
    peer = join(bench, "limited")
    error = ask_error(bench.join(), "authenticate", {"token": "mb_limited"})
    assert (error["code"], error["message"]) == (
        "SERVICE_UNAVAILABLE",
        "the user 'limited' already has 1 connection (max_connections)",
    )
    peer.leave()
    join(bench, "limited")


# What roles allow


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("action", "topic", "allowed"),
    [
        ("publish", "a.b", {"operator", "publisher"}),
        ("publish", "A.B.c", {"operator", "publisher"}),
        ("publish", "b", {"operator"}),
        ("request", "a.b", {"operator", "requester"}),
        ("request", "a.b.c", {"operator"}),
    ],
)
def test_messages_to_topics(
    action: str, topic: str, allowed: set[str], user: str, bench: Bench
) -> None:
    receiver = join(bench, "operator").subscribe("#", "both")
    sender = join(bench, user)
    for _ in range(2):  # the second time, the route is known
        message = f"{action}:{topic}:1.0.0:{new_id()}\n{{}}"
        if user in allowed:
            sender.send(message)
            assert len(receiver.take()) == 1
            sender.take()
        else:
            details = {"action": action, "topic": topic, "user": user}
            assert refusal(sender, message) == ("FORBIDDEN", details)
            assert receiver.take() == []


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("action", "pattern", "allowed"),
    [
        ("publish", "a.b", {"operator", "subscriber"}),
        ("publish", "A.#", {"operator", "subscriber"}),
        ("publish", "+.b", {"operator"}),
        ("publish", "#", {"operator"}),
        ("request", "a.b", {"operator", "responder"}),
        ("request", "a.+", {"operator", "responder"}),
        ("request", "a.#", {"operator"}),
        ("both", "a.b", {"operator"}),
        *(("publish", f"system.{feed}", {"operator"}) for feed in FEEDS if feed != "message"),
    ],
)
def test_subscriptions(
    action: str, pattern: str, allowed: set[str], user: str, bench: Bench
) -> None:
    peer = join(bench, user)
    answer = peer.ask("topic.subscribe", {"action": action, "topic": pattern})
    if user in allowed:
        assert answer == {"status": "success"}
        return
    details = answer["error"]["details"]
    assert answer["error"]["code"] == "FORBIDDEN"
    assert (details["topic"], details["user"]) == (pattern, user)
    assert details["action"] in ("subscribe", "respond")
    assert not peer.service.subscriptions


@pytest.mark.parametrize("user", USERS)
def test_the_audit_feed(user: str, bench: Bench) -> None:
    peer = join(bench, user)
    if user == "operator":
        audit(peer)
        return
    payload = {"action": "publish", "topic": "system.message"}
    error = ask_error(peer, "topic.subscribe", payload)
    assert (error["code"], error["details"]["topic"]) == ("FORBIDDEN", "system.message")
    assert bench.router.registry.auditors == ()


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("topic", SYSTEM_REQUESTS)
def test_lists_and_the_log(topic: str, user: str, bench: Bench) -> None:
    answer = join(bench, user).ask(topic, SYSTEM_REQUESTS[topic])
    if user == "operator":
        assert "error" not in answer
    else:
        assert answer["error"]["code"] == "FORBIDDEN"
        assert answer["error"]["details"]["user"] == user


@pytest.mark.parametrize("user", USERS)
def test_every_user_may_unsubscribe(user: str, bench: Bench) -> None:
    peer = join(bench, user)
    assert peer.ask("log.unsubscribe", {}) == {"status": "success"}
    answer = peer.ask("topic.unsubscribe", {"action": "publish", "topic": "a"})
    assert answer == {"status": "failure"}


@pytest.mark.parametrize("priority", [5.5, 1e308, 10**300])
def test_a_priority_above_the_users_is_refused(priority: float, bench: Bench) -> None:
    peer = join(bench, "limited")
    payload = {"action": "request", "topic": "a", "priority": priority}
    error = ask_error(peer, "topic.subscribe", payload)
    assert error["code"] == "FORBIDDEN"
    assert error["message"].endswith("with a priority above 5 (max_priority)")
    assert not peer.service.subscriptions
    peer.subscribe("a", "request", priority=5)


def test_a_response_needs_no_role(bench: Bench) -> None:
    responder = join(bench, "responder").subscribe("a.b", "request")
    requester = join(bench, "requester")
    requester.send(f"request:a.b:1.0.0:{(asked := new_id())}\n{{}}")
    header = responder.take_one().partition(b"\n")[0].decode()
    responder.send(f"response:a.b:1.0.0:{header.split(':')[3]}\n5")
    assert requester.take_one() == f"response:a.b:1.0.0:{asked}\n5".encode()


def test_anonymous_clients_have_their_roles_and_no_name() -> None:
    bench = make(Grants([Role(publish=["a"])]))
    peer = bench.join()
    peer.send("publish:a:1.0.0\n1")
    assert peer.take_error()["code"] == "NO_ROUTE_FOUND"
    details = {"action": "publish", "topic": "b", "user": None}
    assert refusal(peer, "publish:b:1.0.0\n1") == ("FORBIDDEN", details)
    bench.advance(20)
    assert bench.rejected == []
    assert peer.ask("authenticate", {"token": "mb_operator"})["user"] == "operator"
    peer.send("publish:b:1.0.0\n1")
    assert peer.take_error()["code"] == "NO_ROUTE_FOUND"


def test_wrong_tokens_end_the_connection_of_an_anonymous_client_too() -> None:
    bench = make(Grants())
    peer = bench.join()
    for _ in range(3):
        assert ask_error(peer, "authenticate", {"token": "mb_wrong"})["code"] == "UNAUTHORIZED"
    bench.advance(0)
    assert [each for each, _ in bench.rejected] == [peer]


def test_routes_of_one_user_are_not_those_of_another(bench: Bench) -> None:
    receiver = join(bench, "operator").subscribe("a.b")
    allowed, denied = join(bench, "publisher"), join(bench, "subscriber")
    for sender in (allowed, denied, allowed, denied):
        sender.send("publish:a.b:1.0.0\n1")
    assert len(receiver.take()) == 2
    assert allowed.take() == []
    assert len(denied.take()) == 2


# Secrets


@pytest.mark.parametrize(
    "message",
    [
        'request:system.authenticate:1.0.0:{id}\n{{"token": "mb_secret"}}',
        'request:System.Authenticate:1.0.0\n{{"token": "mb_secret"}}',
        'publish:system.authenticate:1.0.0\n{{"token": "mb_secret"}}',
        "request:system.authenticate:1.0.0:{id}\nmb_secret",
        'request:system.authenticate:1.0.0:{id}\n{{"token": "mb_secret',
        'request:system.authenticate:1.0.0:{id}\n["mb_secret"]',
    ],
)
def test_a_token_is_shown_nowhere(
    message: str, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    follower = join(bench, "operator")
    follower.ask("log.subscribe", {"levels": ["debug", "info", "warn", "error"]})
    auditor = audit(join(bench, "operator"))
    peer = bench.join()
    peer.send(message.format(id=new_id()))
    seen = b"".join([*auditor.take(), *follower.take(), *peer.take()])
    assert b"system.authenticate" in seen.lower()
    assert b"mb_secret" not in seen
    assert "mb_secret" not in caplog.text


def test_denials_are_logged_once_a_second_for_each_user_and_action(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    peers = [join(bench, "subscriber"), join(bench, "responder")]
    for _ in range(50):
        for peer in peers:
            peer.send("publish:a.b:1.0.0\n1", "request:a.b:1.0.0\n1")
            peer.take()
            peer.ask("topic.subscribe", {"action": "both", "topic": "b"})
    lines = [record.getMessage() for record in caplog.records if "may not" in record.getMessage()]
    assert sorted(lines) == [
        f"[FORBIDDEN] the user {user!r} may not {denied}"
        for user in ("responder", "subscriber")
        for denied in ("publish to a.b", "send requests to a.b", "subscribe to b")
    ]


def test_denials_are_counted(bench: Bench) -> None:
    operator, peer, stranger = join(bench, "operator"), join(bench, "subscriber"), bench.join()
    peer.send("publish:a.b:1.0.0\n1")
    for _ in range(2):
        stranger.send("publish:a.b:1.0.0\n1")
    metrics = operator.ask("metrics", {})["metrics"]
    assert metrics["router.forbidden.count"] == 1
    assert metrics["connection.unauthorized.total"] == 2


def test_wrong_tokens_of_anonymous_clients_count_as_unauthorized() -> None:
    bench = make(Grants([Role(publish=["a"])]))
    peer = bench.join()
    ask_error(peer, "authenticate", {"token": "mb_wrong"})
    peer.send("publish:b:1.0.0\n1")
    metrics = join(bench, "operator").ask("metrics", {})["metrics"]
    assert metrics["router.forbidden.count"] == 1
    assert metrics["connection.unauthorized.total"] == 1


def test_without_an_access_file_there_is_no_authentication() -> None:
    peer = Bench().join()
    error = ask_error(peer, "authenticate", {"token": "mb_secret"})
    assert error["code"] == "TOPIC_NOT_SUPPORTED"
    assert peer.bench.router.connect(0).outbox == [GREETING]
