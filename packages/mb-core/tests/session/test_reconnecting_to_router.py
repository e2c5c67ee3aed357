"""Session and Router wired together: the end of a connection, and the next one."""

from __future__ import annotations

import pytest

from mb_core.errors import (
    ConnectionLost,
    NoRouteFoundError,
    RequestTimeoutError,
    ServiceUnavailableError,
)
from mb_core.session import (
    SessionState,
)

from .session_and_router import Peer, World, silent, subscriptions_of, world

__all__ = ["world"]

# The end of a connection


def test_a_responder_that_disconnects_fails_its_requests_at_once(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    requests = [client.ask("a.b", timeout=60_000) for _ in range(3)]
    service.lose()
    for request in requests:
        assert isinstance(client.outcome(request), ServiceUnavailableError)
    assert (client.session.pending, world.router.outstanding) == (0, 0)


def test_a_requester_that_disconnects_leaves_nothing_waiting(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b")
    client.lose()
    error = client.outcome(request)
    assert isinstance(error, ConnectionLost)
    assert error.sent
    service.respond(service.asked[0], "nobody is there")
    world.settle()
    assert world.router.outstanding == 0
    assert service.unmatched == []


# From one connection to the next


def known_as(world: World, peer: Peer) -> tuple[str, str]:
    """Name and description of a peer, as others see them."""
    watcher = world.connect()
    services = watcher.answer(watcher.ask("system.service.list", {}))["services"]
    watcher.lose()
    (listed,) = [each for each in services if each["id"] == peer.service.id]
    return listed["name"], listed["description"]


@pytest.mark.parametrize("restarted", [False, True], ids=["reconnected", "broker restarted"])
def test_a_broker_knows_a_peer_again_that_has_come_back(world: World, restarted: bool) -> None:
    peer, client = world.connect(), world.connect()
    peer.register("name", "what it does")
    listens = [peer.subscribe(pattern) for pattern in ("a.b", "A.B", "#")]
    peer.subscribe("c.d", lambda message: "answer", priority=3)
    before = subscriptions_of(peer)
    service_id = peer.service.id
    if restarted:
        world.restart()
    else:
        peer.lose()
        assert isinstance(client.outcome(client.ask("c.d")), NoRouteFoundError)
        peer.come_back()
    assert peer.service.id != service_id
    assert subscriptions_of(peer) == before
    assert known_as(world, peer) == ("name", "what it does")
    assert client.answer(client.ask("c.d")) == "answer"
    client.publish("a.b", "news")
    assert sorted(peer.delivered, key=lambda pair: listens.index(pair[0])) == [
        (entry, "news") for entry in listens
    ]
    assert peer.unmatched == []


def test_priorities_are_restored(world: World) -> None:
    low, high, client = world.connect(), world.connect(), world.connect()
    low.subscribe("a.b", lambda message: "low", priority=1)
    high.subscribe("a.b", lambda message: "high", priority=2)
    high.lose()
    assert client.answer(client.ask("a.b")) == "low"
    high.come_back()
    assert client.answer(client.ask("a.b")) == "high"


def test_what_was_subscribed_while_lost_is_in_force_after_it(world: World) -> None:
    peer, client = world.connect(), world.connect()
    peer.lose()
    entry = peer.subscribe("a.#")
    gone = peer.subscribe("b.#")
    peer.unsubscribe(gone)
    peer.come_back()
    assert subscriptions_of(peer) == [("publish", "a.#")]
    client.publish("a.b", 1)
    assert peer.delivered == [(entry, 1)]


def test_a_broker_does_not_know_what_was_unsubscribed_while_it_was_told(world: World) -> None:
    peer, client = world.connect(), world.connect()
    other = world.connect()
    entry = peer.subscribe("a.b", lambda message: "gone", priority=2)
    other.subscribe("a.b", lambda message: "here", priority=1)
    peer.lose()
    peer.slow = True
    peer.link_up()
    world.settle()
    assert peer.restoring
    peer.unsubscribe(entry)
    peer.slow = False
    peer.flush()
    assert peer.session.state is SessionState.READY
    assert subscriptions_of(peer) == []
    assert client.answer(client.ask("a.b")) == "here"


def test_a_request_with_retry_that_was_never_sent_is_answered_once(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", lambda message: message.payload)
    client.slow = True
    unsent = client.ask("a.b", 1, timeout=10_000, retry=True)
    client.lose()
    held = client.ask("a.b", 2, timeout=10_000, retry=True)
    world.pass_time(5)
    client.come_back()
    assert (client.answer(unsent), client.answer(held)) == (1, 2)
    assert [message.payload for message in service.asked] == [1, 2]


def test_the_broker_waits_no_longer_for_a_request_that_was_sent_again(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b", timeout=10_000, retry=True)
    world.pass_time(3)
    client.lose()
    world.pass_time(3)
    client.come_back()
    world.pass_time(3.999)
    assert client.outcomes[request] == []
    world.pass_time(0.001)
    error = client.outcome(request)
    assert isinstance(error, RequestTimeoutError)
    assert error.details == {"targetServiceId": service.service.id}


def test_a_request_with_retry_whose_answer_was_lost_is_asked_again(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b", timeout=10_000, retry=True)
    client.lose()
    assert client.outcomes[request] == []
    client.come_back()
    first, second = service.asked
    service.respond(first, "to nobody")
    service.respond(second, "answer")
    world.settle()
    assert client.answer(request) == "answer"
    assert client.unmatched == []


def test_requests_that_wait_too_long_for_a_connection_fail(world: World) -> None:
    client = world.connect(margin=5.0)
    client.lose()
    request = client.ask("a.b", timeout=1000, retry=True)
    confirmed = client.confirm("a.b", timeout=1000)
    world.pass_time(0.999)
    assert client.outcomes[request] == client.outcomes[confirmed] == []
    world.pass_time(0.001)
    for each in (request, confirmed):
        error = client.outcome(each)
        assert isinstance(error, ConnectionLost)
        assert not error.sent


def test_publications_made_while_lost_arrive_in_order_and_once(world: World) -> None:
    listener, client = world.connect(), world.connect()
    listener.subscribe("a.b")
    client.slow = True
    for number in range(4):
        client.publish("a.b", number)
    client.flush(2)
    client.lose()
    for number in (4, 5):
        client.publish("a.b", number)
    request = client.confirm("a.b", 6)
    client.come_back()
    client.slow = False
    client.publish("a.b", 7)
    assert [payload for _, payload in listener.delivered] == list(range(8))
    assert client.answer(request) == {"status": "success"}


def test_what_was_on_its_way_is_lost_and_nothing_else(world: World) -> None:
    listener, client = world.connect(), world.connect()
    listener.subscribe("a.b")
    client.slow = True
    for number in range(6):
        client.publish("a.b", number)
    client.flush(2)
    client.lose(taken=2)
    client.come_back()
    assert [payload for _, payload in listener.delivered] == [0, 1, 4, 5]


# Signs of life


def test_a_broker_that_is_there_is_never_given_up(world: World) -> None:
    peer = world.connect(heartbeat=5.0)
    world.pass_time(3600)
    assert peer.silent == 0
    assert peer.session.state is SessionState.READY
    assert world.router.take_dropped() == []


def test_a_broker_that_is_gone_without_a_word_is_given_up_within_three_intervals(
    world: World,
) -> None:
    peer = world.connect(heartbeat=5.0)
    service = world.connect()
    service.subscribe("a.b", silent)
    world.pass_time(7)
    request = peer.ask("a.b", timeout=60_000)
    peer.mute = True
    world.pass_time(14.9)
    assert peer.silent == 1
    error = peer.outcome(request)
    assert isinstance(error, ConnectionLost)
    assert error.sent
    peer.mute = False
    peer.come_back()
    world.pass_time(60)
    assert peer.silent == 1
