"""The Router without I/O: messages that it refuses, and clients that give no sign of life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_broker import Router, RouterOptions

from .routing import GREETING, ID, OTHER_ID, request_id_of

HEARTBEAT = b"request:system.heartbeat:1.0.0\n{}"


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
