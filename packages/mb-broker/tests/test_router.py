"""The Router without I/O: who gets which message, under which id, and when."""

from __future__ import annotations

import gc
import json
import uuid
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_broker import Router, RouterOptions

ID = "123e4567-e89b-42d3-a456-426614174000"
OTHER_ID = "123e4567-e89b-42d3-a456-426614174001"

GREETING = b"publish:system.initialize:1.0.0\n{}"
HEARTBEAT = b"request:system.heartbeat:1.0.0\n{}"


def request_id_of(message: bytes) -> str:
    """The id in the header of a message that has one; it is a UUID."""
    request_id = message.partition(b"\n")[0].decode().split(":")[3]
    assert str(uuid.UUID(request_id)) == request_id
    return request_id


def is_idle(router: Router) -> bool:
    """Nothing is left of messages that were handled."""
    return (
        router.outstanding == 0
        and not router.take_output()
        and not router.take_dropped()
        and all(
            not service.asked and not service.answering and not service.outbox
            for service in router.registry.services.values()
        )
    )


# Connections


def test_a_new_client_is_greeted_first(bench: Any) -> None:
    assert bench.connect().take() == [GREETING]


def test_options_have_the_protocols_defaults() -> None:
    assert RouterOptions() == RouterOptions(
        max_payload=16_384,
        max_outstanding=10_000,
        request_timeout=5.0,
        heartbeat_after=30.0,
        drop_after=60.0,
    )


def test_when_all_have_left_nothing_is_left(bench: Any) -> None:
    services = [bench.join().subscribe("a.b").subscribe("a.#", "request") for _ in range(3)]
    services[0].send(f"request:a.b:1.0.0:{ID}\n{{}}", "publish:a.b:1.0.0\n{}")
    for service in services:
        service.leave()
    assert is_idle(bench.router)
    assert bench.router.next_deadline() is None
    assert not bench.router.registry.services
    assert not list(bench.router.registry.subscriptions())


def test_a_client_that_left_is_not_kept_alive_for_long(bench: Any) -> None:
    class Link:
        """Stands for what the driver hangs on a service."""

    peer, other = bench.join().subscribe("a.b", "both"), bench.join()
    peer.service.link = Link()
    gone = weakref.ref(peer.service.link)
    messages = [f"{action}:a.b:1.0.0:{ID}\n{{}}" for action in ("publish", "request")]
    other.send(*messages)
    peer.leave()
    other.send(*messages)  # routes are looked up again when they are needed again
    bench.advance(30)  # as are deadlines
    del peer
    gc.collect()
    assert gone() is None


# Publish


def test_a_publication_reaches_all_subscribers_under_one_new_id(bench: Any) -> None:
    first, second = bench.join().subscribe("a.b"), bench.join().subscribe("a.b")
    other, publisher = bench.join().subscribe("a.c"), bench.join()
    publisher.send(f'publish:a.b:2.1.0:{ID}\n{{"x": 1}}')
    message = first.take_one()
    assert message == f'publish:a.b:2.1.0:{request_id_of(message)}\n{{"x": 1}}'.encode()
    assert request_id_of(message) != ID
    assert second.take_one() == message
    assert other.take() == []


def test_a_publisher_that_subscribed_gets_its_own(bench: Any) -> None:
    peer = bench.join().subscribe("a.b")
    peer.send("publish:a.b:1.0.0\n{}")
    assert peer.take_one().startswith(b"publish:a.b:1.0.0:")


def test_each_publication_has_an_id_of_its_own(bench: Any) -> None:
    peer = bench.join().subscribe("a.b")
    peer.send(*["publish:a.b:1.0.0\n{}"] * 100)
    assert len({request_id_of(message) for message in peer.take()}) == 100


def test_publications_keep_their_order(bench: Any) -> None:
    peer, publisher = bench.join().subscribe("#"), bench.join()
    publisher.send(*[f"publish:a.t{n % 3}:1.0.0\n{n}" for n in range(50)])
    payloads = [int(message.partition(b"\n")[2]) for message in peer.take()]
    assert payloads == list(range(50))


def test_the_parent_id_is_not_passed_on(bench: Any) -> None:
    peer, publisher = bench.join().subscribe("a.b").subscribe("a.b", "request"), bench.join()
    for action in ("publish", "request"):
        publisher.send(f"{action}:a.b:1.0.0:{ID}:{OTHER_ID}\n{{}}")
        message = peer.take_one()
        assert message == f"{action}:a.b:1.0.0:{request_id_of(message)}\n{{}}".encode()
        assert request_id_of(message) not in (ID, OTHER_ID)


def test_a_publication_with_an_id_is_confirmed(bench: Any) -> None:
    bench.join().subscribe("a.b")
    publisher = bench.join()
    publisher.send(f"publish:A.b:2.0.0:{ID}\n{{}}")
    assert publisher.take() == [f'response:A.b:2.0.0:{ID}\n{{"status":"success"}}'.encode()]


def test_a_publication_without_an_id_is_not_confirmed(bench: Any) -> None:
    bench.join().subscribe("a.b")
    publisher = bench.join()
    publisher.send("publish:a.b:1.0.0\n{}")
    assert publisher.take() == []


def test_its_own_copy_comes_before_the_confirmation(bench: Any) -> None:
    peer = bench.join().subscribe("a.b")
    peer.send(f"publish:a.b:1.0.0:{ID}\n{{}}")
    copy, confirmation = peer.take()
    assert copy.startswith(b"publish:")
    assert confirmation.startswith(b"response:")


@pytest.mark.parametrize("action", ["publish", "request"])
def test_without_a_route_the_sender_hears_of_it_under_its_id(action: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"{action}:a.b:1.0.0:{ID}\n{{}}")
    message = peer.take_one()
    assert message.startswith(f"response:a.b:1.0.0:{ID}\n".encode())
    assert b"NO_ROUTE_FOUND" in message


@pytest.mark.parametrize("action", ["publish", "request"])
def test_without_a_route_and_without_an_id_the_error_has_a_new_one(action: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"{action}:a.b:1.0.0\n{{}}", f"{action}:a.b:1.0.0\n{{}}")
    first, second = peer.take()
    assert request_id_of(first) != request_id_of(second)
    assert b"NO_ROUTE_FOUND" in first


@pytest.mark.parametrize("action", ["publish", "request"])
def test_a_route_ends_with_its_subscriber(action: str, bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b", action), bench.join()
    sender.send(f"{action}:a.b:1.0.0\n{{}}")
    peer.leave()
    sender.take()
    sender.send(f"{action}:a.b:1.0.0\n{{}}")
    assert sender.take_error()["code"] == "NO_ROUTE_FOUND"


@pytest.mark.parametrize("action", ["publish", "request"])
def test_a_route_begins_with_its_subscriber(action: str, bench: Any) -> None:
    sender = bench.join()
    sender.send(f"{action}:a.b:1.0.0\n{{}}")
    assert sender.take_error()["code"] == "NO_ROUTE_FOUND"
    peer = bench.join().subscribe("a.b", action)
    sender.send(f"{action}:a.b:1.0.0\n{{}}")
    assert peer.take_one().startswith(f"{action}:a.b:1.0.0:".encode())


@pytest.mark.parametrize(
    "payload",
    ["", "null", "no JSON", '{ "a" :  1 }', "{}\n{}", "\n", '["é世界😀"]', "$&$1\\0", ":::"],
    ids=repr,
)
def test_payloads_are_passed_on_byte_for_byte(payload: str, bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b").subscribe("a.b", "request"), bench.join()
    encoded = payload.encode()
    sender.send(b"publish:a.b:1.0.0\n" + encoded, f"request:a.b:1.0.0:{ID}\n".encode() + encoded)
    publication, request = peer.take()
    assert publication.partition(b"\n")[2] == encoded
    assert request.partition(b"\n")[2] == encoded
    peer.send(f"response:a.b:1.0.0:{request_id_of(request)}\n".encode() + encoded)
    assert sender.take_one() == f"response:a.b:1.0.0:{ID}\n".encode() + encoded


# Patterns


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("a.+", "a.b", True),
        ("a.+", "a", False),
        ("a.+", "a.b.c", False),
        ("+.b", "a.b", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c.d.e", True),
        ("a.#", "ab", False),
        ("#", "a.b", True),
        ("A.+.#", "a.B", True),
        ("a.+.c", "A.x.C", True),
    ],
)
@pytest.mark.parametrize("action", ["publish", "request"])
def test_patterns(action: str, pattern: str, topic: str, matches: bool, bench: Any) -> None:
    peer, sender = bench.join().subscribe(pattern, action), bench.join()
    sender.send(f"{action}:{topic}:1.0.0\n{{}}")
    assert bool(peer.take()) is matches
    assert bool(sender.take()) is not matches


def test_a_service_gets_one_copy_however_many_of_its_patterns_match(bench: Any) -> None:
    peer = bench.join().subscribe("a.b").subscribe("a.+").subscribe("#")
    bench.join().send("publish:a.b:1.0.0\n{}")
    assert peer.take_one()


def test_the_end_of_one_pattern_leaves_the_others(bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b").subscribe("a.+"), bench.join()
    peer.ask("topic.unsubscribe", {"action": "publish", "topic": "a.b"})
    sender.send("publish:a.b:1.0.0\n{}")
    assert peer.take_one()


@pytest.mark.parametrize("pattern", ["#", "+.+", "+.heartbeat", "+.#"])
@pytest.mark.parametrize("action", ["publish", "request"])
def test_no_pattern_sees_the_brokers_own_topics(action: str, pattern: str, bench: Any) -> None:
    peer = bench.join().subscribe(pattern, action)
    bench.join().send(f"{action}:system.heartbeat:1.0.0\n{{}}", f"{action}:System.X:1.0.0\n{{}}")
    assert peer.take() == []


# Request and response


def test_a_request_and_its_response(bench: Any) -> None:
    responder, requester = bench.join().subscribe("A.b", "request"), bench.join()
    requester.send(f'request:a.B:2.1.0:{ID}:{OTHER_ID}:900\n{{"x":1}}')
    request = responder.take_one()
    request_id = request_id_of(request)
    assert request == f'request:a.B:2.1.0:{request_id}\n{{"x":1}}'.encode()
    assert request_id not in (ID, OTHER_ID)
    assert bench.router.outstanding == 1
    responder.send(f"response:other.topic:9.9.9:{request_id}\n[2]")
    assert requester.take() == [f"response:a.B:2.1.0:{ID}\n[2]".encode()]
    assert responder.take() == []
    assert is_idle(bench.router)


def test_two_requesters_may_use_the_same_id(bench: Any) -> None:
    responder = bench.join().subscribe("a.b", "request")
    requesters = [bench.join(), bench.join()]
    for number, requester in enumerate(requesters):
        requester.send(f"request:a.b:1.0.0:{ID}\n{number}")
    for message in reversed(responder.take()):
        responder.send(f"response:a.b:1.0.0:{request_id_of(message)}\n{message[-1:].decode()}")
    for number, requester in enumerate(requesters):
        assert requester.take() == [f"response:a.b:1.0.0:{ID}\n{number}".encode()]


def test_a_service_may_ask_itself(bench: Any) -> None:
    peer = bench.join().subscribe("a.b", "request")
    peer.send(f"request:a.b:1.0.0:{ID}\n1")
    peer.send(f"response:a.b:1.0.0:{request_id_of(peer.take_one())}\n2")
    assert peer.take() == [f"response:a.b:1.0.0:{ID}\n2".encode()]
    assert is_idle(bench.router)


def test_a_response_is_taken_once(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    request_id = request_id_of(responder.take_one())
    responder.send(f"response:a.b:1.0.0:{request_id}\n1", f"response:a.b:1.0.0:{request_id}\n2")
    assert requester.take() == [f"response:a.b:1.0.0:{ID}\n1".encode()]
    assert responder.take_error()["code"] == "INVALID_REQUEST_ID"


def test_a_response_without_an_id_is_refused(bench: Any) -> None:
    peer = bench.join()
    peer.send("response:a.b:1.0.0\n{}")
    message = peer.take_one()
    assert b"INVALID_REQUEST_ID" in message
    assert request_id_of(message)


def test_a_response_to_nothing_is_refused_under_its_id(bench: Any) -> None:
    peer = bench.join()
    peer.send(f"response:a.b:1.0.0:{ID}\n{{}}")
    assert peer.inbox[0].startswith(f"response:a.b:1.0.0:{ID}\n".encode())
    error = peer.take_error()
    assert error["code"] == "INVALID_REQUEST_ID"
    assert ID in error["message"]


def test_a_response_of_a_service_that_was_not_asked_is_refused(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    intruder = bench.join().subscribe("a.b", "request", priority=-1)
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    request_id = request_id_of(responder.take_one())
    for other in (intruder, requester):
        other.send(f'response:a.b:1.0.0:{request_id}\n"forged"')
        assert other.take_error()["code"] == "INVALID_REQUEST_ID"
    responder.send(f"response:a.b:1.0.0:{request_id}\n1")
    assert requester.take() == [f"response:a.b:1.0.0:{ID}\n1".encode()]


def test_the_requesters_id_does_not_answer_its_request(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    responder.take()
    responder.send(f"response:a.b:1.0.0:{ID}\n{{}}")
    assert responder.take_error()["code"] == "INVALID_REQUEST_ID"
    assert requester.take() == []


# Who is asked


def test_the_highest_priority_is_asked(bench: Any) -> None:
    low = bench.join().subscribe("a.b", "request", priority=-1.5)
    default = bench.join().subscribe("a.b", "request")
    high = bench.join().subscribe("a.+", "request", priority=0.5)
    sender = bench.join()
    for expected in (high, default, low):
        sender.send("request:a.b:1.0.0\n{}")
        assert [bool(peer.take()) for peer in (low, default, high)] == [
            peer is expected for peer in (low, default, high)
        ]
        expected.leave()
        sender.take()


def test_a_service_counts_by_its_best_pattern(bench: Any) -> None:
    first = bench.join().subscribe("a.b", "request", priority=1)
    first.subscribe("#", "request", priority=3)
    second = bench.join().subscribe("a.b", "request", priority=2)
    bench.join().send(*["request:a.b:1.0.0\n{}"] * 20)
    assert len(first.take()) == 20
    assert second.take() == []


def test_subscribing_again_changes_the_priority(bench: Any) -> None:
    first = bench.join().subscribe("a.b", "request", priority=2)
    second = bench.join().subscribe("a.b", "request", priority=1)
    first.subscribe("A.B", "request")
    bench.join().send("request:a.b:1.0.0\n{}")
    assert second.take_one()
    assert first.take() == []


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 5e-324), (-0.5, -0.0), (10**30, 10**30 + 1), (-(10**400), -1e308), (1e308, 10**400)],
    ids=["tiny", "negative", "large", "very low", "very high"],
)
def test_priorities_are_compared_as_numbers(low: float, high: float, bench: Any) -> None:
    first = bench.join().subscribe("a.b", "request", priority=low)
    second = bench.join().subscribe("a.b", "request", priority=high)
    bench.join().send(*["request:a.b:1.0.0\n{}"] * 20)
    assert first.take() == []
    assert len(second.take()) == 20


def test_equals_are_asked_at_random_and_all_get_some(bench: Any) -> None:
    peers = [bench.join().subscribe("a.b", "request", priority=5) for _ in range(4)]
    bench.join().subscribe("a.b", "request", priority=4)
    bench.join().send(*["request:a.b:1.0.0\n{}"] * 400)
    counts = Counter({number: len(peer.take()) for number, peer in enumerate(peers)})
    assert counts.total() == 400
    # Each expects 100 with a deviation of 8.7: this fails once in more than 10**12 runs.
    assert all(40 <= count <= 160 for count in counts.values())


def test_a_publish_subscriber_is_not_asked(bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b", "publish"), bench.join()
    sender.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    assert peer.take() == []
    assert sender.take_error()["code"] == "NO_ROUTE_FOUND"


def test_a_request_subscriber_hears_no_publications(bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b", "request"), bench.join()
    sender.send(f"publish:a.b:1.0.0:{ID}\n{{}}")
    assert peer.take() == []
    assert sender.take_error()["code"] == "NO_ROUTE_FOUND"


def test_action_both_is_asked_and_hears(bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b", "both"), bench.join()
    sender.send("publish:a.b:1.0.0\n{}", "request:a.b:1.0.0\n{}")
    assert [message.partition(b":")[0] for message in peer.take()] == [b"publish", b"request"]


# Time limits


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (f"request:a.b:1.0.0:{ID}", 5.0),
        (f"request:a.b:1.0.0:{ID}::1", 0.001),
        (f"request:a.b:1.0.0:{ID}::150", 0.15),
        (f"request:a.b:1.0.0:{ID}:{OTHER_ID}:3600000", 3600.0),
    ],
    ids=["default", "shortest", "given", "longest"],
)
def test_a_request_without_a_response_times_out(
    header: str, seconds: float, new_bench: Callable[..., Any]
) -> None:
    bench = new_bench(heartbeat_after=1e6, drop_after=2e6)
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"{header}\n{{}}")
    request_id = request_id_of(responder.take_one())
    assert bench.router.next_deadline() == pytest.approx(bench.now + seconds, rel=1e-9)
    bench.advance(seconds * 0.999)
    assert requester.take() == []
    bench.advance(seconds * 0.002)
    assert requester.inbox[0].startswith(f"response:a.b:1.0.0:{ID}\n".encode())
    error = requester.take_error()
    assert error["code"] == "TIMEOUT"
    assert error["details"] == {"targetServiceId": responder.id}
    assert is_idle(bench.router)

    responder.send(f"response:a.b:1.0.0:{request_id}\n{{}}")
    assert responder.take_error()["code"] == "INVALID_REQUEST_ID"
    assert requester.take() == []


def test_the_default_time_limit_is_an_option(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(request_timeout=0.25)
    bench.join().subscribe("a.b", "request")
    requester = bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    bench.advance(0.25)
    assert requester.take_error()["code"] == "TIMEOUT"


def test_an_answered_request_does_not_time_out(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}::100\n{{}}")
    responder.send(f"response:a.b:1.0.0:{request_id_of(responder.take_one())}\n{{}}")
    requester.take()
    bench.advance(1)
    assert requester.take() == []


def test_requests_time_out_each_at_its_time(bench: Any) -> None:
    bench.join().subscribe("a.b", "request")
    requester = bench.join()
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for request_id, limit in zip(ids, (300, 100, 200), strict=True):
        requester.send(f"request:a.b:1.0.0:{request_id}::{limit}\n{{}}")
    for request_id in (ids[1], ids[2], ids[0]):
        bench.advance(0.1)
        assert request_id_of(requester.take_one()) == request_id


# Who disconnects


def test_a_responder_that_leaves_fails_its_requests_at_once(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}", f"request:a.b:1.0.0:{OTHER_ID}\n{{}}")
    responder.leave()
    messages = requester.take()
    assert [request_id_of(message) for message in messages] == [ID, OTHER_ID]
    error = json.loads(messages[0].partition(b"\n")[2])["error"]
    assert error["code"] == "SERVICE_UNAVAILABLE"
    assert error["details"] == {"targetServiceId": responder.id}
    assert is_idle(bench.router)
    bench.advance(10)
    assert requester.take() == []


def test_a_response_to_a_requester_that_left_is_dropped(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    requester.leave()
    responder.send(f"response:a.b:1.0.0:{request_id_of(responder.take_one())}\n{{}}")
    assert responder.take() == []
    assert is_idle(bench.router)


def test_a_request_of_a_requester_that_left_still_ends_in_time(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}::100\n{{}}")
    request_id = request_id_of(responder.take_one())
    requester.leave()
    bench.advance(0.1)
    assert is_idle(bench.router)
    responder.send(f"response:a.b:1.0.0:{request_id}\n{{}}")
    assert responder.take_error()["code"] == "INVALID_REQUEST_ID"


def test_both_ends_of_a_request_may_leave(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    requester.leave()
    responder.leave()
    assert is_idle(bench.router)
    assert bench.router.next_deadline() is None


def test_a_service_that_asked_itself_may_leave(bench: Any) -> None:
    peer = bench.join().subscribe("a.b", "request")
    peer.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    peer.leave()
    assert is_idle(bench.router)
    assert bench.router.next_deadline() is None


# Requests without an id


@pytest.mark.parametrize("answer", ["{}", '{"error":{"code":"BAD","message":"m"}}', ""])
def test_the_answer_to_a_request_without_an_id_is_dropped(answer: str, bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send("request:a.b:1.0.0\n{}")
    responder.send(f"response:a.b:1.0.0:{request_id_of(responder.take_one())}\n{answer}")
    assert requester.take() == []
    assert responder.take() == []
    assert is_idle(bench.router)


def test_the_error_to_a_request_without_an_id_is_passed_on(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send("request:a.b:1.0.0\n{}")
    asked_as = request_id_of(responder.take_one())
    responder.send(f'response:a.b:1.0.0:{asked_as}\nerror:{{"code":"BAD"}}')
    message = requester.take_one()
    new_id = request_id_of(message)
    assert new_id != asked_as
    assert message == f'response:a.b:1.0.0:{new_id}\nerror:{{"code":"BAD"}}'.encode()


def test_a_request_without_an_id_ends_without_a_word(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send("request:a.b:1.0.0:::100\n{}")
    assert len(responder.take()) == 1
    bench.advance(0.1)
    assert requester.take() == []
    assert bench.router.outstanding == 0


def test_a_header_over_the_brokers_own_limit_is_malformed(new_bench: Any) -> None:
    bench = new_bench(max_header=128)
    peer = bench.join()
    at_limit = b"publish:" + b"a" * (128 - len("publish:") - len(":1.0.0\n")) + b":1.0.0\n"
    peer.send(at_limit + b"{}")
    assert peer.take_error()["code"] == "NO_ROUTE_FOUND"
    peer.send(at_limit.replace(b"publish:", b"publish:b") + b"{}")
    error = peer.take_error()
    assert error["code"] == "MALFORMED_MESSAGE"
    assert "128 bytes" in error["message"]


# Draining


def test_while_draining_requests_are_refused_and_all_else_goes_on(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "both"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n1")
    request_id = request_id_of(responder.take_one())
    bench.router.draining = True
    requester.send(f"request:a.b:1.0.0:{OTHER_ID}\n2")
    assert request_id_of(requester.inbox[0]) == OTHER_ID
    assert requester.take_error()["code"] == "SERVICE_UNAVAILABLE"
    assert responder.take() == []
    requester.send("publish:a.b:1.0.0\n{}")
    assert responder.take_one()
    responder.send(f"response:a.b:1.0.0:{request_id}\n1")
    assert requester.take() == [f"response:a.b:1.0.0:{ID}\n1".encode()]
    assert bench.router.outstanding == 0


# What can't be taken


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="newline"),
        pytest.param(b"\x00\xff\xfe", id="binary"),
        pytest.param(b"publish:a.b:1.0.0", id="no newline"),
        pytest.param(b"publish:a.b:1.0.0" + b" " * 400 + b"\n", id="newline too late"),
        pytest.param(b"publish:a.b:1.0\n{}", id="version"),
        pytest.param(b"publish:a.+:1.0.0\n{}", id="a pattern as topic"),
        pytest.param(b"publish:\xff:1.0.0\n{}", id="no UTF-8"),
        pytest.param(f"publish:a.b:1.0.0:{ID.upper()}\n".encode(), id="upper-case id"),
        pytest.param(f"request:a.b:1.0.0:{ID}::{'9' * 300}\n".encode(), id="huge time limit"),
        pytest.param(f"response:a.b:1.0.0:{ID}::5\n".encode(), id="time limit on a response"),
        pytest.param("publish:s\u0443stem.x:1.0.0\n{}".encode(), id="Cyrillic"),
    ],
)
def test_a_message_without_a_header_is_answered_without_an_id(message: bytes, bench: Any) -> None:
    peer = bench.join()
    peer.send(message)
    assert peer.inbox[0].startswith(b"response:error:1.0.0\n")
    assert peer.take_error()["code"] == "MALFORMED_MESSAGE"


def test_malformed_messages_cost_the_others_of_a_batch_nothing(bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b"), bench.join()
    sender.send("publish:a.b:1.0.0\n1", "nonsense", b"\xff", "publish:a.b:1.0.0\n2")
    assert [message.partition(b"\n")[2] for message in peer.take()] == [b"1", b"2"]
    assert len(sender.take()) == 2


@pytest.mark.parametrize("action", ["publish", "request", "response"])
def test_a_payload_that_is_no_utf8_is_refused(action: str, bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b", "both"), bench.join()
    sender.subscribe("a.c", "request")
    peer.send(f"request:a.c:1.0.0:{OTHER_ID}\n{{}}")
    asked_as = request_id_of(sender.take_one())
    request_id = asked_as if action == "response" else ID
    sender.send(f"{action}:a.b:1.0.0:{request_id}\n".encode() + b"\xff\xfe")
    assert request_id_of(sender.inbox[0]) == request_id
    assert sender.take_error()["code"] == "MALFORMED_MESSAGE"
    assert peer.take() == []


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("publish", "NO_ROUTE_FOUND"),
        ("request", "NO_ROUTE_FOUND"),
        ("response", "INVALID_REQUEST_ID"),
    ],
)
@pytest.mark.parametrize("header", ["a.b:1.0.0", f"a.b:1.0.0:{ID}"])
@pytest.mark.parametrize("payload", [b"\xff", b"x" * 101])
def test_a_payload_is_looked_at_last(
    payload: bytes, header: str, action: str, code: str, new_bench: Callable[..., Any]
) -> None:
    sender = new_bench(max_payload=100).join()
    sender.send(f"{action}:{header}\n".encode() + payload)
    assert sender.take_error()["code"] == code
    expected = {f"router.{action}.count": 1, f"router.{action}.count.error": action != "publish"}
    metrics = sender.ask("metrics", {})["metrics"]
    metrics["router.request.count"] -= 1  # this question
    assert {name: metrics[name] for name in expected} == expected


@pytest.mark.parametrize("header", [f"publish:a.b:1.0.0:{ID}", "publish:a.b:1.0.0"])
def test_a_payload_may_have_the_limit_and_no_more(
    header: str, new_bench: Callable[..., Any]
) -> None:
    bench = new_bench(max_payload=100)
    peer, sender = bench.join(), bench.join()
    peer.ask("topic.subscribe", {"action": "publish", "topic": "a.b"})
    sender.send(f"{header}\n{'x' * 100}")
    assert peer.take_one().endswith(b"x" * 100)
    sender.take()
    sender.send(f"{header}\n{'x' * 101}")
    assert peer.take() == []
    error = sender.take_error()
    assert error["code"] == "MALFORMED_MESSAGE"
    assert error["details"] == {"payloadLength": 101}


def test_the_limit_counts_bytes_not_characters(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_payload=100)
    bench.join().subscribe("a.b")
    sender = bench.join()
    sender.send(f"publish:a.b:1.0.0:{ID}\n{'é' * 50}", f"publish:a.b:1.0.0:{ID}\n{'é' * 51}")
    assert [b"MALFORMED" in message for message in sender.take()] == [False, True]


def test_a_response_that_is_refused_may_be_sent_again(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_payload=100)
    responder, requester = bench.join().subscribe("a.b", "request"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    request_id = request_id_of(responder.take_one())
    responder.send(f"response:a.b:1.0.0:{request_id}\n{'x' * 101}")
    assert responder.take_error()["code"] == "MALFORMED_MESSAGE"
    responder.send(f"response:a.b:1.0.0:{request_id}\n1")
    assert requester.take() == [f"response:a.b:1.0.0:{ID}\n1".encode()]


@given(st.lists(st.binary(max_size=60) | st.text(":.abAB#+10\n{}", max_size=40).map(str.encode)))
def test_nothing_that_a_client_sends_makes_the_router_raise(messages: list[bytes]) -> None:
    router = Router()
    services = [router.connect(0.0) for _ in range(2)]
    router.receive(services[0], messages, 1.0)
    router.receive(services[0], [b"request:system.heartbeat:1.0.0\n{}"], 1.0)
    assert services[0].outbox[-1].endswith(b'{"status":"success"}')
    assert services[1].outbox == [GREETING]


# Signs of life


def test_a_silent_client_is_asked_and_then_dropped(bench: Any) -> None:
    peer = bench.join()
    bench.advance(29.9)
    assert peer.take() == []
    bench.advance(0.1)
    assert peer.take() == [HEARTBEAT]
    bench.advance(29.9)
    assert peer.take() == []
    assert bench.dropped == []
    bench.advance(0.1)
    assert bench.dropped == [peer]
    peer.leave()
    assert bench.router.next_deadline() is None


@pytest.mark.parametrize(
    "message",
    [
        "response:system.heartbeat:1.0.0\n{}",
        "publish:a.b:1.0.0\n{}",
        f"response:a.b:1.0.0:{ID}\n{{}}",
        "nonsense",
        b"\xff",
    ],
    ids=["heartbeat", "publish", "late response", "malformed", "no UTF-8"],
)
def test_any_message_is_a_sign_of_life(message: str | bytes, bench: Any) -> None:
    peer = bench.join()
    for _ in range(3):
        bench.advance(50)
        assert peer.take() == [HEARTBEAT]
        peer.send(message)
        peer.take()
    bench.advance(29.9)
    assert peer.take() == []
    assert bench.dropped == []


def test_who_talks_is_not_asked(bench: Any) -> None:
    peer = bench.join()
    for _ in range(100):
        bench.advance(29)
        peer.send("request:system.heartbeat:1.0.0\n{}")
        assert peer.take_one() != HEARTBEAT


def test_what_a_client_receives_is_no_sign_of_its_life(bench: Any) -> None:
    peer, sender = bench.join().subscribe("a.b"), bench.join()
    for _ in range(6):
        bench.advance(10)
        sender.send("publish:a.b:1.0.0\n{}")
    assert HEARTBEAT in peer.take()
    assert bench.dropped == [peer]


def test_the_answer_to_a_heartbeat_is_not_answered(bench: Any) -> None:
    peer = bench.join()
    peer.send(
        "response:system.heartbeat:1.0.0\n{}",
        f"response:system.heartbeat:1.0.0:{ID}\n{{}}",
        "response:System.HEARTBEAT:1.0.0\nno JSON",
    )
    assert peer.take() == []


def test_a_silent_client_is_asked_as_often_as_its_silence_lasts(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench(heartbeat_after=10, drop_after=45)
    peer = bench.join()
    for _ in range(4):
        bench.advance(9.9)
        assert peer.take() == []
        bench.advance(0.1)
        assert peer.take() == [HEARTBEAT]
    bench.advance(5)
    assert peer.take() == []
    assert bench.dropped == [peer]


def test_who_answered_is_asked_again_after_the_same_silence(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench(heartbeat_after=10, drop_after=300)
    peer = bench.join()
    for _ in range(5):
        bench.advance(10)
        assert peer.take() == [HEARTBEAT]
        bench.advance(0.5)
        peer.send("response:system.heartbeat:1.0.0\n{}")
        bench.advance(9.9)
        assert peer.take() == []
        bench.advance(0.1)
        assert peer.take() == [HEARTBEAT]
        peer.send("response:system.heartbeat:1.0.0\n{}")


def test_a_client_whose_message_takes_long_is_neither_asked_nor_dropped(
    new_bench: Callable[..., Any],
) -> None:
    bench = new_bench(heartbeat_after=10, drop_after=20)
    peer = bench.join()
    for part in range(1, 30):
        bench.progress[peer.service] = part
        bench.advance(9.9)
    assert peer.take() == []
    assert bench.dropped == []
    bench.advance(10)
    assert peer.take() == [HEARTBEAT]
    bench.progress[peer.service] += 1  # of what it had to read before the question
    bench.advance(10)
    assert bench.dropped == []
    bench.advance(20.1)
    assert bench.dropped == [peer]


def test_the_bytes_of_a_message_count_once(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(heartbeat_after=10, drop_after=20)
    peer = bench.join()
    for seconds in (1, 9.5, 9.8):
        bench.advance(seconds)
        bench.progress[peer.service] = bench.progress.get(peer.service, 0) + 50
        peer.send("response:system.heartbeat:1.0.0\n{}")
    bench.advance(9.9)
    assert peer.take() == []
    bench.advance(0.2)
    assert peer.take() == [HEARTBEAT]
    bench.advance(9.8)
    assert bench.dropped == []
    bench.advance(0.2)
    assert bench.dropped == [peer]


@given(
    start=st.floats(0, 1e6),
    heartbeat_after=st.floats(1e-3, 1e3),
    ratio=st.floats(1.001, 50),
)
def test_each_deadline_has_an_effect(start: float, heartbeat_after: float, ratio: float) -> None:
    drop_after = heartbeat_after * ratio
    router = Router(RouterOptions(heartbeat_after=heartbeat_after, drop_after=drop_after))
    service = router.connect(start)
    service.outbox.clear()
    asked = 0
    while (deadline := router.next_deadline()) is not None:
        assert deadline > start
        router.handle_deadline(deadline)
        assert service.outbox == [HEARTBEAT] or router.take_dropped() == [service]
        asked += len(service.outbox)
        service.outbox.clear()
    assert 1 <= asked <= drop_after / heartbeat_after + 1


def test_a_deadline_that_is_handled_late_asks_no_question_in_vain(bench: Any) -> None:
    peer = bench.join()
    bench.now += 61
    bench.router.handle_deadline(bench.now)
    bench.deliver()
    assert peer.take() == []
    assert bench.dropped == [peer]


def test_handling_deadlines_early_does_nothing(bench: Any) -> None:
    peer = bench.join()
    deadline = bench.router.next_deadline()
    bench.router.handle_deadline(bench.now)
    assert bench.router.next_deadline() == deadline
    assert peer.take() == []


def test_without_clients_there_is_no_deadline() -> None:
    assert Router().next_deadline() is None
