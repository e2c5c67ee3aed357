"""The audit feed, `system.message`: every message once, in the order in which it is handled."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_broker import Broker, Router
from mb_broker.audit_feed import received_event, sent_event

ID = "123e4567-e89b-42d3-a456-426614174000"
PARENT = "123e4567-e89b-42d3-a456-426614174009"
SERVICE = "00000000-0000-4000-8000-000000000001"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

SUBSCRIBE = (
    f'request:system.topic.subscribe:1.0.0:{ID}\n{{"action":"publish","topic":"system.message"}}'
)

Connect = Callable[..., Awaitable[Any]]


def event_of(message: bytes) -> dict[str, Any]:
    """An event of the feed without its time, which is one."""
    header, _, payload = message.partition(b"\n")
    assert header == b"publish:system.message:1.0.0"
    event: dict[str, Any] = json.loads(payload)
    assert TIME.fullmatch(event.pop("timestamp"))
    return event


def audit(bench: Any) -> Any:
    """A client that follows the feed, and has read the answer to that."""
    peer = bench.join()
    peer.send(SUBSCRIBE)
    answer, event = peer.take()
    assert json.loads(answer.partition(b"\n")[2]) == {"status": "success"}
    assert event_of(event)["to"] == peer.id
    return peer


def events(peer: Any) -> list[dict[str, Any]]:
    return [event_of(message) for message in peer.take()]


def header(action: str, topic: str, request_id: str | None = None, **more: Any) -> dict[str, Any]:
    made = {"action": action, "topic": topic, "version": "1.0.0", **more}
    return made if request_id is None else {**made, "requestId": request_id}


# The form of events


@pytest.mark.parametrize(
    ("message", "shown", "timeout"),
    [
        ("publish:a.b:1.0.0\n{}", header("publish", "a.b"), 5000),
        (f"PUBLISH:A.b:1.0.0:{ID}\n{{}}", header("publish", "A.b", ID), 5000),
        (f"request:a.b:1.0.0:{ID}\n{{}}", header("request", "a.b", ID), 5000),
        (f"request:a.b:1.0.0:{ID}::70\n{{}}", header("request", "a.b", ID, timeout=70), 70),
        ("request:a.b:1.0.0:::3600000\n{}", header("request", "a.b", timeout=3_600_000), 3_600_000),
        (
            f"response:a.b:1.0.0:{ID}:{PARENT}\n{{}}",
            header("response", "a.b", ID, parentRequestId=PARENT),
            5000,
        ),
    ],
    ids=["publish", "any case", "request", "time limit", "no id", "parent"],
)
def test_an_event_shows_the_header_as_it_came_and_a_time_limit(
    message: str, shown: dict[str, Any], timeout: int
) -> None:
    assert event_of(received_event(SERVICE, message.encode(), 5.0)) == {
        "from": SERVICE,
        "timeout": timeout,
        "message": {"header": shown, "payload": {}},
    }


def test_the_time_limit_is_in_whole_milliseconds() -> None:
    event = received_event(SERVICE, b"publish:a.b:1.0.0\n", 0.0299)
    assert b'"timeout":30,' in event


@pytest.mark.parametrize(
    "payload",
    [
        '{"a":1,"a":2}',
        "1.0",
        "1e2",
        "123456789012345678901234567890",
        '"\\u00e9\\/"',
        '{ "spaces" : [ ] }',
        '"$& $1 %s {}"',
        "null",
        '"é\N{SNOWMAN}"',
    ],
)
def test_json_is_shown_byte_for_byte(payload: str) -> None:
    event = sent_event(SERVICE, f"publish:a.b:1.0.0\n{payload}".encode(), None)
    assert event.endswith(b'"payload":' + payload.encode() + b"}}")


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", None),
        (
            b'error:{"code":"A",\n"message":"m","more":1}',
            {"error": {"code": "A", "message": "m", "more": 1}},
        ),
        (
            b'error:{"code":"A","timestamp":"t"}',
            {"error": {"code": "A", "message": "", "timestamp": "t"}},
        ),
        (b"error:{}", "error:{}"),
        (b"error:no json", "error:no json"),
        (b'{"error":"no","ok":true}', {"error": "no", "ok": True}),
        (b"no json", "no json"),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
        (b'{"a":"\xff"}', '{"a":"\N{REPLACEMENT CHARACTER}"}'),
        (b'"\\ud800"', "\ud800"),
        (b"[" * 16_000, "[" * 16_000),
        (b'{"a":\n[1,\n2]}\n', {"a": [1, 2]}),
        (b'"a\nb"', '"a\nb"'),
        (b"\0", "\0"),
    ],
    ids=[
        "empty",
        "a service's error",
        "a service's error without a text",
        "no code behind the prefix",
        "no JSON behind the prefix",
        "data with a key error",
        "a text",
        "no UTF-8",
        "JSON but for its UTF-8",
        "half a surrogate pair",
        "too deep",
        "several lines",
        "a line break in a string",
        "NUL",
    ],
)
def test_what_is_no_json_is_shown_as_a_text(payload: bytes, shown: Any) -> None:
    event = event_of(sent_event(SERVICE, b"publish:a.b:1.0.0\n" + payload, None))
    assert event["message"]["payload"] == shown


@given(st.binary(max_size=60) | st.integers(900, 1100).map(lambda n: b"\n" + b"[" * n + b"]" * n))
def test_any_payload_makes_an_event_of_one_line(payload: bytes) -> None:
    message = b"request:a.b:1.0.0\n" + payload
    for event in (received_event(SERVICE, message, 5.0), sent_event(SERVICE, message, None)):
        assert event.count(b"\n") == 1
        event.decode()
        assert event.endswith(b"}}")


def test_the_masked_id_is_there_where_one_was_replaced() -> None:
    message = f"request:a.b:1.0.0:{ID}\n{{}}".encode()
    assert event_of(sent_event(SERVICE, message, PARENT.encode()))["maskedId"] == PARENT
    assert "maskedId" not in event_of(sent_event(SERVICE, message, None))


# The order of events


def test_a_request_makes_four_events(bench: Any) -> None:
    auditor, requester = audit(bench), bench.join()
    responder = bench.join().subscribe("a.b", "request")
    auditor.take()
    requester.send(f'request:a.B:1.0.0:{ID}:{PARENT}:700\n{{"q":1}}')
    passed_on = responder.take_one()
    broker_id = passed_on.partition(b"\n")[0].decode().split(":")[3]
    assert broker_id != ID
    responder.send(f'response:a.b:1.0.0:{broker_id}\n{{"a":1}}')
    assert events(auditor) == [
        {
            "from": requester.id,
            "timeout": 700,
            "message": {
                "header": header("request", "a.B", ID, parentRequestId=PARENT, timeout=700),
                "payload": {"q": 1},
            },
        },
        {
            "to": responder.id,
            "message": {"header": header("request", "a.B", broker_id), "payload": {"q": 1}},
            "maskedId": ID,
        },
        {
            "from": responder.id,
            "timeout": 5000,
            "message": {"header": header("response", "a.b", broker_id), "payload": {"a": 1}},
        },
        {
            "to": requester.id,
            "message": {"header": header("response", "a.B", ID), "payload": {"a": 1}},
        },
    ]


def test_a_publication_makes_an_event_for_each_of_its_receivers(bench: Any) -> None:
    auditor, sender = audit(bench), bench.join()
    receivers = [bench.join().subscribe("a.b") for _ in range(2)]
    auditor.take()
    sender.send(f"publish:a.b:1.0.0:{ID}\n1")
    first, *copies, confirmation = events(auditor)
    assert (first["from"], first["message"]["payload"]) == (sender.id, 1)
    assert [event["to"] for event in copies] == [peer.id for peer in receivers]
    assert {event["maskedId"] for event in copies} == {ID}
    assert len({event["message"]["header"]["requestId"] for event in copies}) == 1
    assert (confirmation["to"], confirmation["message"]["payload"]) == (
        sender.id,
        {"status": "success"},
    )
    assert "maskedId" not in confirmation


def test_a_publication_without_an_id_masks_none(bench: Any) -> None:
    auditor, sender = audit(bench), bench.join()
    bench.join().subscribe("a.b")
    auditor.take()
    sender.send("publish:a.b:1.0.0\n1")
    received, sent = events(auditor)
    assert "requestId" not in received["message"]["header"]
    assert "maskedId" not in sent


def test_events_of_one_message_come_before_those_of_the_next(bench: Any) -> None:
    auditor, sender = audit(bench), bench.join()
    bench.join().subscribe("a.b")
    auditor.take()
    sender.send(*(f"publish:a.b:1.0.0\n{n}" for n in range(50)))
    seen = [(("from" in event), event["message"]["payload"]) for event in events(auditor)]
    assert seen == [(received, n) for n in range(50) for received in (True, False)]


def test_the_brokers_own_words_are_shown(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(request_timeout=1.0, heartbeat_after=10.0, max_outstanding=1)
    auditor = audit(bench)
    peer = bench.join().subscribe("a.b", "request")
    greeting = events(auditor)[0]
    assert greeting == {
        "to": peer.id,
        "message": {"header": header("publish", "system.initialize"), "payload": {}},
    }
    peer.send("nonsense")
    (malformed,) = events(auditor)  # what has no header is in no event
    assert malformed["to"] == peer.id
    assert malformed["message"]["header"] == header("response", "error")
    asked = [f"request:a.b:1.0.0:{ID[:-1]}{n}\n{{}}" for n in range(2)]
    peer.send(*asked)
    busy = events(auditor)[3]
    assert busy["message"]["payload"]["error"]["code"] == "SERVICE_UNAVAILABLE"
    bench.advance(1)
    (timed_out,) = events(auditor)
    assert timed_out["message"]["payload"]["error"]["code"] == "TIMEOUT"
    bench.advance(10)
    assert auditor.inbox.popleft() == b"request:system.heartbeat:1.0.0\n{}"
    asked_for_life = events(auditor)
    assert [event["to"] for event in asked_for_life] == [auditor.id, peer.id]
    assert asked_for_life[0]["message"]["header"] == header("request", "system.heartbeat")


def test_a_payload_that_is_refused_is_shown(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_payload=100)
    auditor, sender = audit(bench), bench.join()
    auditor.take()
    sender.send(b"publish:a.b:1.0.0\n" + b"x" * 101, b"publish:a.b:1.0.0\n\xff")
    shown = [event["message"]["payload"] for event in events(auditor)]
    assert shown[0] == "x" * 101
    assert shown[2] == "\N{REPLACEMENT CHARACTER}"


def test_the_end_of_a_responder_is_shown_by_what_its_requesters_are_told(bench: Any) -> None:
    auditor, requester = audit(bench), bench.join()
    responder = bench.join().subscribe("a.b", "request")
    requester.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    auditor.take()
    responder.leave()
    (event,) = events(auditor)
    assert event["to"] == requester.id
    assert event["message"]["payload"]["error"]["code"] == "SERVICE_UNAVAILABLE"


# The feed itself


def test_audit_messages_are_not_audited(bench: Any) -> None:
    one, other = audit(bench), audit(bench)
    one.take()
    bench.join()
    assert len(one.take()) == len(other.take()) == 1


def test_entries_of_the_log_are_audited_as_what_clients_get(bench: Any) -> None:
    auditor = audit(bench)
    auditor.send(f'request:system.log.subscribe:1.0.0:{ID}\n{{"levels":["info"]}}')
    auditor.take()
    bench.router.log.write("info", "broker", "text")
    bench.deliver()
    entry, event = auditor.take()
    assert entry.startswith(b"response:system.log:1.0.0\n")
    assert event_of(event)["message"]["header"] == header("response", "system.log")


def test_an_auditor_sees_its_own_messages_until_it_leaves(bench: Any) -> None:
    auditor = audit(bench)
    auditor.send(f"request:system.heartbeat:1.0.0:{ID}\n{{}}")
    received, answer, sent = auditor.take()
    assert event_of(received)["from"] == event_of(sent)["to"] == auditor.id
    assert answer == f'response:system.heartbeat:1.0.0:{ID}\n{{"status":"success"}}'.encode()
    auditor.send(SUBSCRIBE.replace("topic.subscribe", "topic.unsubscribe"))
    received, answer = auditor.take()
    assert event_of(received)["from"] == auditor.id
    bench.join()
    assert auditor.take() == []


@pytest.mark.parametrize("pattern", ["#", "system.#", "+.message", "System.Message"])
def test_only_the_feeds_own_name_is_the_feed(pattern: str, bench: Any) -> None:
    peer = bench.join()
    payload = json.dumps({"action": "publish", "topic": pattern})
    peer.send(f"request:system.topic.subscribe:1.0.0:{ID}\n{payload}")
    peer.take()
    bench.join()
    assert bool(peer.take()) is (pattern == "System.Message")


@pytest.mark.parametrize("topic", ["system.message", "System.Message"])
@pytest.mark.parametrize("action", ["publish", "request", "response"])
def test_nobody_else_speaks_in_the_feed(topic: str, action: str, bench: Any) -> None:
    auditor, peer = audit(bench), bench.join()
    auditor.take()
    peer.send(f"{action}:{topic}:1.0.0:{ID}\n{{}}")
    refused = "TOPIC_NOT_SUPPORTED" if action == "request" else "INVALID_REQUEST"
    assert peer.take_error()["code"] == refused
    received, answer = events(auditor)
    assert received["from"] == answer["to"] == peer.id


@pytest.mark.parametrize("action", ["publish", "request", "response"])
@pytest.mark.parametrize("topic", [f"{start}.{'b' * 150}" for start in ("a", "x", "system")])
def test_a_header_that_is_full_without_an_id_can_not_be_passed_on(
    topic: str, action: str, bench: Any
) -> None:
    auditor, peer = audit(bench), bench.join()
    bench.join().subscribe(f"a.{'b' * 150}", "both")
    auditor.take()
    # With an id and as a response, the longer one would be one byte over the limit.
    fits = f"{topic}:1.0.0-".ljust(367 - len("response:") - 38, "v")
    for subject in (f"{fits}v", f"{fits}{'v' * (357 - len(fits))}"):
        message = f"{action}:{subject}\n{{}}"
        assert len(message) <= 369
        peer.send(message)
        header, _, payload = peer.take_one().partition(b"\n")
        assert header == b"response:error:1.0.0"
        error = json.loads(payload)["error"]
        assert error["code"] == "MALFORMED_MESSAGE"
        assert "more than 367" in error["message"]
        assert [("from" in event) for event in events(auditor)] == [True, False]
    peer.send(f"{action}:{fits}\n{{}}")
    for message in (*peer.take(), *auditor.take()):
        assert len(message.partition(b"\n")[0]) < 367
        assert not message.startswith(b"response:error")


def test_an_auditor_that_leaves_in_the_middle_is_sent_nothing(bench: Any) -> None:
    auditor, peer = audit(bench), bench.join()
    auditor.take()
    auditor.leave()
    peer.send("request:system.heartbeat:1.0.0\n{}")
    assert auditor.take() == []
    assert bench.router.registry.auditors == ()


@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
def test_nothing_that_a_client_sends_makes_the_feed_raise(payloads: list[bytes], own: bool) -> None:
    router = Router()
    auditor, peer = router.connect(0.0), router.connect(0.0)
    router.receive(auditor, [SUBSCRIBE.encode()], 0.0)
    messages = [b"request:system.topic.subscribe:1.0.0\n" + payload for payload in payloads]
    messages += [b"publish:a.b:1.0.0\n" + payload for payload in payloads]
    messages += payloads
    before = len(auditor.outbox)
    router.receive(auditor if own else peer, messages, 1.0)
    assert (len(auditor.outbox) > before) is bool(messages)


@pytest.mark.anyio
async def test_under_load_the_feed_has_every_message_in_order(connect: Connect) -> None:
    count = 2000
    with anyio.fail_after(20):
        async with Broker("memory://", "tcp://127.0.0.1:0") as broker:
            auditor = await connect(broker.url_of("tcp"))
            auditor.send(SUBSCRIBE)
            await auditor.receive()
            sender = await connect(broker.url_of("tcp"))
            receiver = await connect(broker.url_of("memory"))
            await receiver.subscribe("a.b")
            for n in range(count):
                sender.send(f"publish:a.b:1.0.0\n{n}")
                if sender.link.congested:
                    await sender.link.drain()
            for n in range(count):
                assert (await receiver.receive()).endswith(b"\n%d" % n)
            seen: list[tuple[bool, int]] = []
            while len(seen) < 2 * count:
                event = event_of(await auditor.receive())
                if event["message"]["header"]["topic"] == "a.b":
                    seen.append(("from" in event, event["message"]["payload"]))
            assert seen == [(way, n) for n in range(count) for way in (True, False)]
