"""The Router without I/O: requests, who answers them, and every way in which they end."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from .routing import ID, OTHER_ID, is_idle, request_id_of

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


# Which service gets a request


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


# Clients that disconnect


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
