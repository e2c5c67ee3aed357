"""The broker's own topics: what they answer, and what they refuse."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

ID = "123e4567-e89b-42d3-a456-426614174000"
SUCCESS = {"status": "success"}
FAILURE = {"status": "failure"}

TOPICS = [
    "heartbeat",
    "service.register",
    "service.list",
    "service.subscriptions",
    "topic.subscribe",
    "topic.unsubscribe",
    "topic.list",
    "topic.subscriptions",
]
# Those that are answered whatever the payload is.
WITHOUT_PAYLOAD = ["heartbeat", "service.list", "topic.list", "topic.subscriptions"]
WITH_PAYLOAD = [topic for topic in TOPICS if topic not in WITHOUT_PAYLOAD]
FEEDS = [
    "system.log",
    "system.message",
    "system.service.register",
    "system.topic.subscribe",
    "system.topic.unsubscribe",
]


def error_of(answer: Any) -> dict[str, Any]:
    """The error that is all of an answer."""
    assert set(answer) == {"error"}
    error: dict[str, Any] = answer["error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", error["timestamp"])
    assert error["message"]
    return error


# All of them


@pytest.mark.parametrize("topic", TOPICS)
def test_the_answer_has_the_requests_spelling_and_version(topic: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"request:System.{topic.upper()}:3.2.1:{ID}\n{{}}")
    assert peer.take_one().startswith(f"response:System.{topic.upper()}:3.2.1:{ID}\n".encode())


@pytest.mark.parametrize("topic", TOPICS)
def test_without_an_id_the_answer_has_a_new_one(topic: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"request:system.{topic}:1.0.0\n{{}}")
    header = peer.take_one().partition(b"\n")[0]
    assert re.fullmatch(rb"response:system\.%b:1\.0\.0:[0-9a-f-]{36}" % topic.encode(), header)


@pytest.mark.parametrize("topic", [*WITHOUT_PAYLOAD, "log.unsubscribe"])
@pytest.mark.parametrize("payload", ["", "null", " null ", "[]", "{bad", '"\\ud800"'])
def test_some_need_no_payload(topic: str, payload: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"request:system.{topic}:1.0.0:{ID}\n{{}}")
    header, _, expected = peer.take_one().partition(b"\n")
    peer.send(f"request:system.{topic}:1.0.0:{ID}\n{payload}")
    answer = peer.take_one()
    assert answer.startswith(header)
    assert set(json.loads(answer.partition(b"\n")[2])) == set(json.loads(expected))


@pytest.mark.parametrize("payload", ["", "null", "{bad"])
def test_a_heartbeat_response_needs_no_payload(payload: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"response:system.heartbeat:1.0.0\n{payload}")
    assert not peer.inbox


@pytest.mark.parametrize("topic", WITH_PAYLOAD)
@pytest.mark.parametrize("payload", ["", "null", " null "])
def test_for_others_a_payload_is_required(topic: str, payload: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"request:system.{topic}:1.0.0:{ID}\n{payload}")
    assert peer.inbox[0].startswith(f"response:system.{topic}:1.0.0:{ID}\n".encode())
    assert peer.take_error()["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("topic", WITH_PAYLOAD)
@pytest.mark.parametrize("payload", ["{", "nope", '{"a":1}x', "[" * 10_000])
def test_a_payload_that_is_no_json_is_malformed(topic: str, payload: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"request:system.{topic}:1.0.0:{ID}\n{payload}")
    error = peer.take_error()
    assert error["code"] == "MALFORMED_MESSAGE"
    assert error["details"] == {"payload": payload}


@pytest.mark.parametrize(
    ("action", "topic"),
    [
        (action, topic)
        for action in ("publish", "response")
        for topic in TOPICS
        if (action, topic) != ("response", "heartbeat")
    ],
)
def test_they_take_requests_only(action: str, topic: str, bench: Any) -> None:
    peer = bench.join()
    peer.send(f"{action}:System.{topic}:1.0.0:{ID}\n{{}}")
    error = peer.take_error()
    assert error["code"] == "INVALID_REQUEST"
    assert error["details"] == {"action": action, "topic": f"System.{topic}"}


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("publish", "INVALID_REQUEST"),
        ("request", "TOPIC_NOT_SUPPORTED"),
        ("response", "INVALID_REQUEST"),
    ],
)
@pytest.mark.parametrize("topic", ["system.unknown", "SYSTEM.x.y.z", "system.initialize"])
@pytest.mark.parametrize("payload", ["{}", "{bad", f'"{"x" * 16_384}"'], ids=lambda text: text[:4])
def test_an_unknown_one_is_not_supported(
    payload: str, topic: str, action: str, code: str, bench: Any
) -> None:
    peer = bench.join()
    peer.send(f"{action}:{topic}:1.0.0:{ID}\n{payload}")
    assert peer.take_error()["code"] == code


@pytest.mark.parametrize("topic", TOPICS)
def test_a_payload_over_the_limit_is_refused_last(topic: str, bench: Any) -> None:
    peer, payload = bench.join(), f'"{"x" * 16_384}"'
    peer.send(f"publish:system.{topic}:1.0.0:{ID}\n{payload}")
    assert peer.take_error()["code"] == "INVALID_REQUEST"
    peer.send(f"request:system.{topic}:1.0.0:{ID}\n{payload}")
    refused = b"MALFORMED_MESSAGE" in peer.take_one()
    assert refused is (topic in WITH_PAYLOAD)


def test_a_topic_that_only_looks_like_one_is_routed(bench: Any) -> None:
    peer = bench.join().subscribe("system").subscribe("systems.heartbeat")
    bench.join().send("publish:system:1.0.0\n{}", "publish:systems.heartbeat:1.0.0\n{}")
    assert len(peer.take()) == 2


# Heartbeat and registration


def test_heartbeat(bench: Any) -> None:
    assert bench.join().ask("heartbeat", {}) == SUCCESS


def test_a_registered_service_is_listed(bench: Any) -> None:
    peer = bench.join()
    assert peer.ask("service.register", {"name": "one", "description": "the first"}) == SUCCESS
    (service,) = peer.ask("service.list", {})["services"]
    assert (service["id"], service["name"], service["description"]) == (
        peer.id,
        "one",
        "the first",
    )


def test_registering_again_replaces(bench: Any) -> None:
    peer = bench.join()
    for name in ("one", "two"):
        assert peer.ask("service.register", {"name": name, "description": name}) == SUCCESS
    (service,) = peer.ask("service.list", {})["services"]
    assert service["name"] == service["description"] == "two"


@pytest.mark.parametrize(
    ("payload", "details"),
    [
        ({}, {}),
        ({"name": "n"}, {"name": "n"}),
        ({"description": "d"}, {"description": "d"}),
        ({"name": "", "description": "d"}, {"name": "", "description": "d"}),
        ({"name": "n", "description": ""}, {"name": "n", "description": ""}),
        ({"name": 5, "description": "d"}, {"name": 5, "description": "d"}),
        ({"name": ["n"], "description": None}, {"name": ["n"], "description": None}),
        ({"name": 10**30, "description": "d"}, {"name": 10**30, "description": "d"}),
        ({"name": "n" * 37, "description": "d"}, {"name": "n" * 37}),
        ({"name": "n", "description": "d" * 1025}, {"description": "d" * 1025}),
        ([], {}),
        ("text", {}),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_registration_that_is_refused_changes_nothing(
    payload: Any, details: Any, bench: Any
) -> None:
    peer = bench.join()
    peer.ask("service.register", {"name": "before", "description": "before"})
    error = error_of(peer.ask("service.register", payload))
    assert error["code"] == "INVALID_REQUEST"
    assert error["details"] == details
    (service,) = peer.ask("service.list", {})["services"]
    assert service["name"] == service["description"] == "before"


@pytest.mark.parametrize("key", ["name", "description"])
def test_a_name_that_can_not_be_shown_is_refused(key: str, bench: Any) -> None:
    payload = {"name": "n", "description": "d", key: "\ud800"}
    error = error_of(bench.join().ask("service.register", payload))
    assert error["code"] == "INVALID_REQUEST"


def test_names_count_characters_and_may_have_the_limit(bench: Any) -> None:
    payload = {"name": "é" * 36, "description": "😀" * 1024}
    assert bench.join().ask("service.register", payload) == SUCCESS


def test_the_list_shows_everybody_and_when_they_were_heard(bench: Any) -> None:
    peer = bench.join()
    bench.advance(7)
    other = bench.join()
    services = {each["id"]: each for each in other.ask("service.list", {})["services"]}
    assert set(services) == {peer.id, other.id}
    times = [services[peer.id]["connectedAt"], services[other.id]["connectedAt"]]
    seconds = [float(time[17:23]) for time in times]
    assert (seconds[1] - seconds[0]) % 60 == pytest.approx(7, abs=0.002)
    assert services[peer.id]["lastHeartbeat"] == services[peer.id]["connectedAt"]
    other.leave()
    assert [each["id"] for each in peer.ask("service.list", {})["services"]] == [peer.id]


# Subscriptions


def test_subscriptions_are_listed_by_topic_then_action(bench: Any) -> None:
    peer, other = bench.join(), bench.join()
    peer.subscribe("B", "request", priority=3).subscribe("b").subscribe("a.+").subscribe("#")
    peer.subscribe("c", "both", priority=-1.5)
    expected = [
        {"action": "publish", "topic": "#"},
        {"action": "publish", "topic": "a.+"},
        {"action": "publish", "topic": "b"},
        {"action": "request", "topic": "b", "priority": 3},
        {"action": "publish", "topic": "c"},
        {"action": "request", "topic": "c", "priority": -1.5},
    ]
    assert peer.ask("service.subscriptions", {}) == {"subscriptions": expected}
    assert other.ask("service.subscriptions", {}) == {"subscriptions": []}
    assert other.ask("service.subscriptions", {"serviceId": peer.id})["subscriptions"] == expected


@pytest.mark.parametrize(
    "given", ["", "x", ID.upper(), "\u0661" * 36, 5, 0, False, ["x"], {}], ids=repr
)
def test_the_subscriptions_of_what_is_not_an_id(given: Any, bench: Any) -> None:
    error = error_of(bench.join().ask("service.subscriptions", {"serviceId": given}))
    assert error["code"] == "INVALID_REQUEST"
    assert error["details"] == {"serviceId": given}


def test_the_subscriptions_of_a_service_that_is_not_there(bench: Any) -> None:
    peer, gone = bench.join(), bench.join()
    gone.leave()
    error = error_of(peer.ask("service.subscriptions", {"serviceId": gone.id}))
    assert error["code"] == "SERVICE_UNAVAILABLE"
    assert error["message"] == f"Service {gone.id} not found"
    assert error["details"] == {"serviceId": gone.id}


@pytest.mark.parametrize("payload", [{"serviceId": None}, {}, [], 5, "text"], ids=repr)
def test_ones_own_subscriptions_are_the_default(payload: Any, bench: Any) -> None:
    bench.join().subscribe("another.one")
    peer = bench.join().subscribe("a.b")
    expected = {"subscriptions": [{"action": "publish", "topic": "a.b"}]}
    assert peer.ask("service.subscriptions", payload) == expected


@pytest.mark.parametrize(
    ("topic", "key"), [("topic.list", "topics"), ("topic.subscriptions", "subscriptions")]
)
def test_topics_are_listed_with_the_highest_priority_first(
    topic: str, key: str, bench: Any
) -> None:
    peers = [bench.join() for _ in range(4)]
    for peer, priority in zip(peers, (1, -2.5, 10**30), strict=False):
        peer.subscribe("Svc.Echo", "request", priority=priority)
    peers[3].subscribe("svc.echo", "both")
    assert peers[0].ask(topic, {}) == {
        key: [
            {
                "action": "publish",
                "topic": "svc.echo",
                "subscribers": [{"serviceId": peers[3].id}],
            },
            {
                "action": "request",
                "topic": "svc.echo",
                "subscribers": [
                    {"serviceId": peers[2].id, "priority": 10**30},
                    {"serviceId": peers[0].id, "priority": 1},
                    {"serviceId": peers[3].id, "priority": 0},
                    {"serviceId": peers[1].id, "priority": -2.5},
                ],
            },
        ]
    }


def test_nothing_is_listed_where_nobody_subscribed(bench: Any) -> None:
    peer = bench.join().subscribe("a.b", "both")
    peer.ask("topic.unsubscribe", {"action": "both", "topic": "a.b"})
    assert peer.ask("topic.list", {}) == {"topics": []}
    assert peer.ask("topic.subscriptions", {}) == {"subscriptions": []}


def test_subscribing_without_a_priority_resets_it(bench: Any) -> None:
    peer = bench.join().subscribe("a", "request", priority=3).subscribe("A", "request")
    expected = [{"action": "request", "topic": "a", "priority": 0}]
    assert peer.ask("service.subscriptions", {}) == {"subscriptions": expected}


@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"topic": "a.b"},
        {"action": None, "topic": "a.b"},
        {"action": "PUBLISH", "topic": "a.b"},
        {"action": ["publish"], "topic": "a.b"},
        {"action": {}, "topic": "a.b"},
        {"action": "publish"},
        {"action": "publish", "topic": ""},
        {"action": "publish", "topic": "a..b"},
        {"action": "publish", "topic": "a.#.b"},
        {"action": "publish", "topic": "a#"},
        {"action": "publish", "topic": "a.b.c.d.e.f"},
        {"action": "publish", "topic": "a" * 256},
        {"action": "publish", "topic": "ä"},
        {"action": "publish", "topic": 5},
        {"action": "publish", "topic": ["a.b"]},
        {"action": "publish", "topic": "a.b\n"},
        [],
        5,
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_what_is_no_subscription_is_refused(verb: str, payload: Any, bench: Any) -> None:
    peer = bench.join()
    assert error_of(peer.ask(f"topic.{verb}", payload))["code"] == "INVALID_REQUEST"
    assert peer.ask("topic.list", {}) == {"topics": []}


@pytest.mark.parametrize("priority", ["5", None, True, [], {}], ids=repr)
def test_a_priority_is_a_number(priority: Any, bench: Any) -> None:
    peer = bench.join()
    for action in ("publish", "request", "both", "response"):
        payload = {"action": action, "topic": "a.b", "priority": priority}
        error = error_of(peer.ask("topic.subscribe", payload))
        assert error["code"] == "INVALID_REQUEST"
        assert error["details"] == {"priority": priority}
    assert peer.ask("topic.list", {}) == {"topics": []}


@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
def test_nobody_subscribes_to_responses(verb: str, bench: Any) -> None:
    peer = bench.join()
    assert peer.ask(f"topic.{verb}", {"action": "response", "topic": "a.b"}) == FAILURE
    for topic in (None, "a..b", "system.heartbeat"):
        payload = {"action": "response", "topic": topic}
        assert error_of(peer.ask(f"topic.{verb}", payload))["code"] == "INVALID_REQUEST"
    assert peer.ask("topic.list", {}) == {"topics": []}


@pytest.mark.parametrize("feed", FEEDS)
def test_the_brokers_feeds_can_be_subscribed_to(feed: str, bench: Any) -> None:
    peer = bench.join()
    payload = json.dumps({"action": "publish", "topic": feed.replace("system", "System")})
    peer.send(f"request:system.topic.subscribe:1.0.0:{ID}\n{payload}")
    # Events of the feed come behind it.
    assert json.loads(peer.inbox[0].partition(b"\n")[2]) == SUCCESS


@pytest.mark.parametrize(
    # The audit feed would tell of these very questions: see test_audit_feed.py.
    "feed",
    [feed for feed in FEEDS if feed not in ("system.log", "system.message")],
)
def test_and_unsubscribed_but_for_the_log(feed: str, bench: Any) -> None:
    peer = bench.join()
    payload = {"action": "publish", "topic": feed}
    assert peer.ask("topic.unsubscribe", payload) == FAILURE
    assert peer.ask("topic.subscribe", payload) == SUCCESS
    assert peer.ask("topic.unsubscribe", payload) == SUCCESS


@pytest.mark.parametrize(
    ("verb", "action", "topic"),
    [
        *[("subscribe", action, feed) for feed in FEEDS for action in ("request", "both")],
        *[
            (verb, "publish", topic)
            for verb in ("subscribe", "unsubscribe")
            for topic in ("system.heartbeat", "System.X", "system.+", "system.#", "SYSTEM.topic.#")
        ],
        ("unsubscribe", "publish", "system.log"),
    ],
)
def test_all_else_of_the_brokers_own_is_refused(
    verb: str, action: str, topic: str, bench: Any
) -> None:
    peer = bench.join()
    error = error_of(peer.ask(f"topic.{verb}", {"action": action, "topic": topic}))
    assert error["code"] == "INVALID_REQUEST"
    assert error["details"] == {"topic": topic}
    assert peer.ask("topic.list", {}) == {"topics": []}


def test_unsubscribing_ends_one_action_and_leaves_the_other(bench: Any) -> None:
    peer = bench.join().subscribe("a.b", "both")
    assert peer.ask("topic.unsubscribe", {"action": "publish", "topic": "A.B"}) == SUCCESS
    assert peer.ask("topic.unsubscribe", {"action": "publish", "topic": "a.b"}) == FAILURE
    expected = [{"action": "request", "topic": "a.b", "priority": 0}]
    assert peer.ask("service.subscriptions", {}) == {"subscriptions": expected}
    assert peer.ask("topic.unsubscribe", {"action": "both", "topic": "a.b"}) == SUCCESS
    assert peer.ask("topic.unsubscribe", {"action": "both", "topic": "a.b"}) == FAILURE


def test_nobody_unsubscribes_another(bench: Any) -> None:
    peer, other = bench.join().subscribe("a.b"), bench.join()
    assert other.ask("topic.unsubscribe", {"action": "publish", "topic": "a.b"}) == FAILURE
    assert peer.ask("service.subscriptions", {})["subscriptions"]
