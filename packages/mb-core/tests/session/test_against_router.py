"""Session and Router wired together: connecting, requests, publications, subscriptions."""

from __future__ import annotations

from mb_core.errors import (
    ForbiddenError,
    InvalidRequestError,
    InvalidRequestIdError,
    NoRouteFoundError,
    RequestTimeoutError,
    ServiceUnavailableError,
)
from mb_core.header import Action
from mb_core.message import Message
from mb_core.session import (
    SessionState,
    SubscriptionEntry,
)

from .session_and_router import World, silent, subscriptions_of, world

__all__ = ["world"]

# Connecting


def test_the_routers_greeting_makes_a_session_ready(world: World) -> None:
    assert world.connect().session.state is SessionState.READY


def test_an_idle_session_answers_heartbeats_and_stays_connected(world: World) -> None:
    peer = world.connect()
    world.pass_time(3600)
    assert world.router.take_dropped() == []
    assert peer.unmatched == []
    assert world.now - peer.service.last_seen <= 30


def test_a_heartbeat_of_the_sessions_own_is_answered_once(world: World) -> None:
    peer = world.connect()
    assert peer.answer(peer.ask("system.heartbeat", {})) == {"status": "success"}
    assert peer.unmatched == []


def test_what_the_session_allows_in_a_registration_the_broker_accepts(world: World) -> None:
    peer = world.connect()
    for name, description in (("n", "d"), ("雪" * 36, "ñ" * 1024)):
        peer.register(name, description)
        (listed,) = peer.answer(peer.ask("system.service.list", {}))["services"]
        assert (listed["name"], listed["description"]) == (name, description)


# Requests


def test_a_request_and_its_response(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("weather.current", lambda message: {"asked": message.payload})
    request = client.ask("Weather.Current", {"city": "Oslo"})
    outcome = client.outcome(request)
    assert isinstance(outcome, Message)
    assert outcome.payload == {"asked": {"city": "Oslo"}}
    assert outcome.topic == "Weather.Current"
    assert (client.session.pending, world.router.outstanding) == (0, 0)
    (message,) = service.asked
    assert message.request_key != request.request_id


def test_a_session_may_answer_itself(world: World) -> None:
    peer = world.connect()
    peer.subscribe("a.b", lambda message: "me")
    assert peer.answer(peer.ask("a.b")) == "me"


def test_many_requests_in_one_batch_find_their_answers(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("double", lambda message: message.payload * 2)
    requests = [
        client.session.request("double", n, now=world.now, timeout=1000) for n in range(200)
    ]
    client.send(*(request.message for request in requests))
    assert [client.answer(request) for request in requests] == [2 * n for n in range(200)]


def test_a_services_error_arrives_as_it_was_sent(world: World) -> None:
    service, client = world.connect(), world.connect()
    sent = ForbiddenError("not you", details={"who": "you"})
    service.subscribe("a.b", lambda message: sent)
    error = client.outcome(client.ask("a.b"))
    assert isinstance(error, ForbiddenError)
    assert (error.message, error.details, error.timestamp) == (
        "not you",
        {"who": "you"},
        sent.timestamp,
    )


def test_an_error_with_huge_details_arrives_without_them(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", lambda message: ForbiddenError("\x01" * 9000, details="x" * 90_000))
    error = client.outcome(client.ask("a.b"))
    assert isinstance(error, ForbiddenError)
    assert error.message
    assert set(error.message) == {"\x01"}
    assert error.details is None
    assert service.unmatched == []


def test_a_request_that_nobody_answers_fails_at_once(world: World) -> None:
    client = world.connect()
    assert isinstance(client.outcome(client.ask("a.b")), NoRouteFoundError)
    assert client.session.next_deadline() is None


def test_a_request_goes_to_the_highest_priority_among_services_and_within_one(
    world: World,
) -> None:
    low, high, client = world.connect(), world.connect(), world.connect()
    low.subscribe("a.b", lambda message: "low", priority=1)
    high.subscribe("a.b", lambda message: "high, exact", priority=2)
    high.subscribe("a.#", lambda message: "high, pattern", priority=3)
    assert client.answer(client.ask("a.b")) == "high, pattern"
    high.lose()
    assert client.answer(client.ask("a.b")) == "low"


def test_the_brokers_word_on_a_time_limit_comes_before_the_sessions_own(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b", timeout=2000)
    world.pass_time(1.999)
    assert client.outcomes[request] == []
    world.pass_time(0.001)
    error = client.outcome(request)
    assert isinstance(error, RequestTimeoutError)
    assert error.details == {"targetServiceId": service.service.id}
    world.pass_time(60)
    assert client.outcome(request) is error


def test_a_broker_that_falls_silent_is_waited_for_the_margin_longer(world: World) -> None:
    client = world.connect(margin=0.5)
    client.mute = True
    request = client.ask("a.b", timeout=2000)
    world.pass_time(2.499)
    assert client.outcomes[request] == []
    world.pass_time(0.001)
    error = client.outcome(request)
    assert isinstance(error, RequestTimeoutError)
    assert error.details is None
    assert client.session.pending == 0


def test_a_late_response_harms_nobody_and_its_responder_is_told(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b", timeout=1000)
    world.pass_time(1)
    service.respond(service.asked[0], "late")
    world.settle()
    assert isinstance(client.outcome(request), RequestTimeoutError)
    assert client.unmatched == []
    (report,) = service.unmatched
    assert isinstance(report.error, InvalidRequestIdError)


def test_a_second_response_reaches_nobody(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", lambda message: "first")
    request = client.ask("a.b")
    service.respond(service.asked[0], "second")
    world.settle()
    assert client.answer(request) == "first"
    assert client.unmatched == []


def test_the_answer_to_a_cancelled_request_is_unmatched(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b")
    client.session.cancel(request)
    service.respond(service.asked[0], "nobody waits")
    world.settle()
    assert client.outcomes[request] == []
    (unmatched,) = client.unmatched
    assert unmatched.error is None
    assert unmatched.message is not None
    assert unmatched.message.payload == "nobody waits"


def test_a_request_without_an_id_is_not_answered(world: World) -> None:
    service, client = world.connect(), world.connect()
    results = iter(["data", ForbiddenError("not you")])
    service.subscribe("a.b", lambda message: next(results))
    for count in (1, 2):
        client.send(b"request:a.b:1.0.0\n{}")
        assert len(service.asked) == count
        assert client.unmatched == []


# Publications


def test_a_publication_reaches_every_subscription_once(world: World) -> None:
    peers = [world.connect() for _ in range(3)]
    entries = [
        [peer.subscribe(pattern) for pattern in ("a.b", "a.+", "a.b", "#")] for peer in peers
    ]
    peers[0].send(peers[0].session.publish("a.b", 1), peers[0].session.publish("A.B", 2))
    for peer, own in zip(peers, entries, strict=True):
        for entry in own:
            assert [payload for to, payload in peer.delivered if to is entry] == [1, 2]


def test_a_confirmed_publication_succeeds_where_somebody_listens(world: World) -> None:
    listener, client = world.connect(), world.connect()
    entry = listener.subscribe("a.#")
    assert client.answer(client.confirm("a.b", "news")) == {"status": "success"}
    assert listener.delivered == [(entry, "news")]


def test_a_publication_without_listeners_is_an_error_where_it_is_confirmed_and_a_report_where_not(
    world: World,
) -> None:
    client = world.connect()
    assert isinstance(client.outcome(client.confirm("a.b")), NoRouteFoundError)
    assert client.unroutable == []
    client.publish("A.b", {})
    (unroutable,) = client.unroutable
    assert unroutable.topic == "A.b"
    assert unroutable.error.details == {"topic": "A.b"}
    assert client.unmatched == []


def test_the_order_of_publications_is_kept_over_topics(world: World) -> None:
    listener, client = world.connect(), world.connect()
    listener.subscribe("#")
    topics = ["a", "b", "A", "a", "c.d", "b"]
    client.send(*(client.session.publish(topic, n) for n, topic in enumerate(topics)))
    assert [payload for _, payload in listener.delivered] == list(range(len(topics)))


# Subscriptions


def test_publications_and_requests_of_a_topic_are_two_subscriptions_of_the_broker_too(
    world: World,
) -> None:
    peer = world.connect()
    listens = peer.subscribe("a.b")
    responds = peer.subscribe("a.b", lambda message: "answer")
    assert subscriptions_of(peer) == [("publish", "a.b"), ("request", "a.b")]
    assert peer.unsubscribe(listens) == {"status": "success"}
    assert subscriptions_of(peer) == [("request", "a.b")]
    assert peer.answer(peer.ask("a.b")) == "answer"
    assert isinstance(peer.outcome(peer.confirm("a.b")), NoRouteFoundError)
    assert peer.unsubscribe(responds) == {"status": "success"}
    assert subscriptions_of(peer) == []


def test_the_last_subscription_of_a_pattern_ends_it_at_the_broker(world: World) -> None:
    peer = world.connect()
    first, second = peer.subscribe("a.b"), peer.subscribe("A.b")
    assert subscriptions_of(peer) == [("publish", "a.b")]
    assert peer.unsubscribe(first) is None
    peer.confirm("a.b", 1)
    assert peer.delivered == [(second, 1)]
    assert peer.unsubscribe(second) == {"status": "success"}
    assert subscriptions_of(peer) == []
    assert isinstance(peer.outcome(peer.confirm("a.b")), NoRouteFoundError)


def test_a_request_that_crosses_unsubscribing_is_unavailable_at_once(world: World) -> None:
    service, client = world.connect(), world.connect()
    entry = service.subscribe("a.b", lambda message: "never")
    request = client.session.request("a.b", {}, now=world.now, timeout=60_000)
    # In the broker's outbox for the service while that unsubscribes.
    world.router.receive(client.service, [request.message], world.now)
    assert service.unsubscribe(entry) == {"status": "success"}
    assert isinstance(client.outcome(request), ServiceUnavailableError)
    assert service.asked == []


def test_a_subscription_that_the_broker_refuses_is_failed(world: World) -> None:
    peer = world.connect()
    entry = SubscriptionEntry("system.metrics", Action.PUBLISH, 1, None)
    request = peer.begin(peer.session.subscribe(entry, now=world.now, timeout=1000))
    assert isinstance(peer.outcome(request), InvalidRequestError)
