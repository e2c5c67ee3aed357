"""The Router without I/O: connections, publications and patterns."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from mb_broker import RouterOptions

from .routing import GREETING, ID, OTHER_ID, is_idle, request_id_of

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


# Draining


def test_while_draining_requests_are_refused_and_all_else_goes_on(bench: Any) -> None:
    responder, requester = bench.join().subscribe("a.b", "both"), bench.join()
    requester.send(f"request:a.b:1.0.0:{ID}\n1")
    request_id = request_id_of(responder.take_one())
    bench.router.requests.draining = True
    requester.send(f"request:a.b:1.0.0:{OTHER_ID}\n2")
    assert request_id_of(requester.inbox[0]) == OTHER_ID
    assert requester.take_error()["code"] == "SERVICE_UNAVAILABLE"
    assert responder.take() == []
    requester.send("publish:a.b:1.0.0\n{}")
    assert responder.take_one()
    responder.send(f"response:a.b:1.0.0:{request_id}\n1")
    assert requester.take() == [f"response:a.b:1.0.0:{ID}\n1".encode()]
    assert bench.router.outstanding == 0
