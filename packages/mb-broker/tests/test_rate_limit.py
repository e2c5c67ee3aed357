"""`max_rate`: how many messages a user may send per second."""

from __future__ import annotations

import json

import pytest

from mb_broker import identities
from mb_broker.access import Access, Grants, Limits, Role, User
from mb_broker.access.users import Authentication
from mb_broker.rate_limit import RateLimit
from mb_core.authenticators import Credentials, Identity

from .conftest import Bench, Peer, new_id, system_request
from .users import access_of

ALL = Grants([Role(["#"], ["#"], ["#"], ["#"], ["metrics", "log"])])
PUBLICATION = "publish:a:1.0.0\n1"


def make(max_rate: float | None = 5) -> Bench:
    return Bench(access=access_of(users(max_rate)))


def users(max_rate: float | None) -> list[User]:
    return [User("fast", ALL), User("slow", ALL, Limits(max_rate=max_rate))]


def join(bench: Bench, name: str) -> Peer:
    peer = bench.join()
    assert peer.ask("authenticate", {"token": f"mb_{name}"})["user"] == name
    return peer


def codes(peer: Peer) -> list[str]:
    bodies = [json.loads(message.partition(b"\n")[2]) for message in peer.take()]
    return [body["error"]["code"] if "error" in body else "ok" for body in bodies]


def confirmed() -> str:
    return f"publish:a:1.0.0:{new_id()}\n1"


def test_what_is_beyond_the_limit_is_refused_and_nothing_else() -> None:
    bench = make()
    receiver, slow = join(bench, "fast").subscribe("a"), join(bench, "slow")
    slow.send(*[confirmed() for _ in range(8)])
    assert len(receiver.take()) == 5
    assert codes(slow) == ["ok"] * 5 + ["SERVICE_UNAVAILABLE"] * 3
    slow.send(PUBLICATION)
    error = slow.take_error()
    text = "the user 'slow' sends more than 5 messages per second (max_rate)"
    assert (error["code"], error["message"]) == ("SERVICE_UNAVAILABLE", text)
    assert error["details"] == {"user": "slow", "max_rate": 5}
    bench.advance(0.5)
    slow.send(*[PUBLICATION] * 3)
    assert len(receiver.take()) == 2
    bench.advance(60)  # a pause gives no more than the messages of a second
    slow.take()
    receiver.take()
    slow.send(*[PUBLICATION] * 9)
    assert len(receiver.take()) == 5


def test_all_connections_of_a_user_share_it_and_new_ones_get_no_more() -> None:
    bench = make()
    receiver = join(bench, "fast").subscribe("a")
    peers = [join(bench, "slow") for _ in range(2)]
    for _ in range(4):
        for peer in peers:
            peer.send(PUBLICATION)
    assert len(receiver.take()) == 5
    for peer in peers:
        peer.leave()
    late = join(bench, "slow")
    late.send(PUBLICATION)
    assert receiver.take() == []
    assert codes(late) == ["SERVICE_UNAVAILABLE"]


def test_other_users_are_not_limited() -> None:
    bench = make()
    receiver, fast, slow = (
        join(bench, "fast").subscribe("a"),
        join(bench, "fast"),
        join(bench, "slow"),
    )
    slow.send(*[PUBLICATION] * 50)
    fast.send(*[PUBLICATION] * 50)
    assert len(receiver.take()) == 55


def test_answers_and_signs_of_life_are_free() -> None:
    """Others decide how much a service has to answer, and a client has to prove that it lives."""
    bench = make()
    slow = join(bench, "slow").subscribe("a", "request")
    requester = join(bench, "fast")
    slow.send(*[PUBLICATION] * 20)
    slow.take()
    requester.send(*[f"request:a:1.0.0:{new_id()}\n1" for _ in range(20)])
    for message in slow.take():
        request_id = message.partition(b"\n")[0].split(b":")[3]
        slow.send(b"response:a:1.0.0:%b\n2" % request_id)
    assert codes_of_answers(requester) == [2] * 20
    assert slow.ask("heartbeat", {}) == {"status": "success"}
    slow.send("response:system.heartbeat:1.0.0\n{}")
    assert slow.take() == []


def codes_of_answers(peer: Peer) -> list[int]:
    return [json.loads(message.partition(b"\n")[2]) for message in peer.take()]


def test_requests_to_the_broker_count() -> None:
    bench = make(1)
    slow = join(bench, "slow")
    assert "metrics" in slow.ask("metrics", {})
    message, _ = system_request("metrics", {})
    slow.send(message)
    assert codes(slow) == ["SERVICE_UNAVAILABLE"]


def test_a_message_that_cannot_be_read_is_still_answered_as_such() -> None:
    bench = make(1)
    slow = join(bench, "slow")
    slow.send(PUBLICATION, "nonsense")
    assert codes(slow) == ["NO_ROUTE_FOUND", "MALFORMED_MESSAGE"]


def test_a_message_that_has_to_wait_for_its_turn_counts_once() -> None:
    bench = make(2)
    slow = join(bench, "slow")
    costly, _ = system_request("metrics", {})
    messages = [costly.encode() if isinstance(costly, str) else costly, PUBLICATION.encode()]
    messages.append(PUBLICATION.encode())
    rest = bench.router.receive(slow.service, messages, bench.now, costly=0)
    assert rest == messages
    rest = bench.router.receive(slow.service, rest, bench.now, costly=1)
    assert rest == []
    bench.deliver()
    assert len(slow.take()) == 3
    assert bench.router.metrics.message.total == 1 + 3  # the first one authenticated


def test_the_log_has_one_entry_a_second(caplog: pytest.LogCaptureFixture) -> None:
    bench = make()
    slow = join(bench, "slow")
    slow.send(*[PUBLICATION] * 50)
    lines = [each for each in caplog.messages if "max_rate" in each]
    assert lines == [
        "[SERVICE_UNAVAILABLE] the user 'slow' sends more than 5 messages per second (max_rate)"
    ]


def test_a_new_file_changes_it_for_connected_clients() -> None:
    bench = make()
    receiver, slow = join(bench, "fast").subscribe("a"), join(bench, "slow")
    for limit, count in ((2, 2), (None, 50), (7, 7)):
        bench.router.replace_access(access_of(users(limit)), bench.now)
        slow.send(*[PUBLICATION] * 50)
        assert len(receiver.take()) == count
    bench.router.replace_access(access_of(users(7)), bench.now)  # the same limit goes on
    slow.send(PUBLICATION)
    assert receiver.take() == []


def test_less_than_one_a_second() -> None:
    limit = RateLimit("slow", 0.1, 0.0)
    message = b"publish:a:1.0.0\n1"
    assert limit.split([message] * 3, 0.0) == ([message], [message] * 2)
    assert limit.split([message], 9.0) == ([], [message])
    assert limit.split([message], 10.0) == ([message], [])


def test_what_comes_together_with_the_token_is_limited_as_well() -> None:
    bench = make()
    receiver, slow = join(bench, "fast").subscribe("a"), bench.join()
    token, _ = system_request("authenticate", {"token": "mb_slow"})
    slow.send(token, *[confirmed() for _ in range(60)])
    assert len(receiver.take()) == 5
    assert codes(slow) == ["ok"] * 6 + ["SERVICE_UNAVAILABLE"] * 55
    assert bench.router.metrics.publish.total == 5


def test_what_comes_together_with_another_users_token_has_that_users_limit() -> None:
    bench = make(1)
    receiver, client = join(bench, "fast").subscribe("a"), join(bench, "slow")
    token, _ = system_request("authenticate", {"token": "mb_fast"})
    client.send(token, *[confirmed() for _ in range(8)])
    assert len(receiver.take()) == 8
    assert codes(client) == ["ok"] * 9


def test_a_client_that_sends_no_token_may_send_only_a_few_messages() -> None:
    bench = make()
    stranger, silent = bench.join(), bench.join()
    stranger.send(*["request:system.heartbeat:1.0.0\n{}", PUBLICATION] * 7)
    assert codes(stranger) == ["ok", "UNAUTHORIZED"] * 7
    stranger.send(*[PUBLICATION, b"malformed"] * 50)
    assert len(stranger.take()) == 6
    token, _ = system_request("authenticate", {"token": "mb_fast"})
    stranger.send(token, *[PUBLICATION] * 50)
    assert stranger.take() == []
    assert stranger.service.user is None
    bench.advance(0)
    why = "sent more than 20 messages without authenticating"
    assert bench.rejected == [(stranger, why)]
    assert silent.ask("authenticate", {"token": "mb_fast"})["user"] == "fast"


def test_after_three_wrong_tokens_not_even_the_right_one_is_looked_at() -> None:
    bench = make()
    client = bench.join()
    wrong, _ = system_request("authenticate", {"token": "wrong"})
    right, _ = system_request("authenticate", {"token": "mb_fast"})
    client.send(wrong, wrong, wrong, right)
    assert codes(client) == ["UNAUTHORIZED"] * 4
    assert client.service.user is None
    bench.advance(0)
    assert bench.rejected == [(client, "sent 3 wrong tokens")]


def test_clients_that_may_be_anonymous_are_not_limited() -> None:
    bench = Bench(access=access_of(users(5), ALL))
    anonymous = bench.join()
    anonymous.send(*[confirmed() for _ in range(50)])
    assert codes(anonymous) == ["NO_ROUTE_FOUND"] * 50
    bench = make()
    waiting = bench.join()
    bench.router.replace_access(access_of(users(5), ALL), bench.now)
    waiting.send(*[confirmed() for _ in range(50)])
    assert codes(waiting) == ["NO_ROUTE_FOUND"] * 50


def test_those_of_any_number_of_users_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An authenticator may know any number of users; those with a connection keep their limit."""
    monkeypatch.setattr(identities, "_MAX_RATE_LIMITS", 10)

    def authenticate(credentials: Credentials) -> Identity | None:
        return Identity(credentials.token or "nobody", ("all",))

    rule = Authentication("any", authenticate, Limits(max_rate=1))
    bench = Bench(access=Access([], None, [rule], lambda roles: ALL))
    kept = bench.join()
    kept.ask("authenticate", {"token": "kept"})
    kept.send(PUBLICATION)
    kept.take()
    for number in range(50):
        peer = bench.join()
        peer.ask("authenticate", {"token": f"user-{number}"})
        peer.leave()
        assert len(bench.router._identities._rate_limits) <= 12
    again = bench.join()
    again.ask("authenticate", {"token": "kept"})
    again.send(PUBLICATION)
    assert codes(again) == ["SERVICE_UNAVAILABLE"]
