"""What `mb top` knows of a broker, by its answers: no I/O, and a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mb_tools.top.model import (
    FEED,
    METRICS,
    SERVICES,
    SUBSCRIPTIONS,
    Audit,
    Model,
    ServiceRow,
    TopicRow,
)

ID = "11111111-0000-4000-8000-000000000001"
OTHER = "22222222-0000-4000-8000-000000000002"

METRIC_VALUES: dict[str, float] = {
    "process.uptime": 3600,
    "process.cpu.percent": 0.25,
    "process.memory.bytes": 4_000_000,
    "connection.active": 7,
    "router.message.rate": 30,
    "router.publish.rate": 10,
    "router.request.rate": 9,
}


def service(service_id: str, name: str = "", **more: Any) -> dict[str, Any]:
    return {
        "id": service_id,
        "name": name,
        "description": f"about {name}",
        "connectedAt": "2026-01-01T00:00:00.000Z",
        "lastHeartbeat": "2026-01-01T00:00:00.000Z",
        **more,
    }


def subscription(action: str, topic: str, *ids: str) -> dict[str, Any]:
    subscribers = [{"serviceId": each, "priority": 1} for each in ids]
    return {"action": action, "topic": topic, "subscribers": subscribers}


def audit_message(action: str, topic: str, request_id: str | None = None, **more: Any) -> bytes:
    payload = more.pop("payload", None)
    header = {"action": action, "topic": topic, "version": "1.0.0"}
    if request_id is not None:
        header["requestId"] = request_id
    message = {"header": header, "payload": payload}
    return json.dumps(
        {"timestamp": "2026-01-01T00:00:00.000Z", "message": message, **more}
    ).encode()


@pytest.fixture
def model() -> Model:
    """Connected, with one service that answers a.b, and the audit feed on."""
    model = Model()
    model.up()
    model.set_audit(Audit.ON)
    model.take(METRICS, {"metrics": METRIC_VALUES}, 0.0)
    model.take(SERVICES, {"services": [service(ID, "Maker"), service(OTHER)]}, 0.0)
    subscriptions = [
        subscription("request", "a.b", ID),
        subscription("publish", "c.#", ID, OTHER),
        subscription("publish", "system.message", OTHER),
    ]
    model.take(SUBSCRIPTIONS, {"subscriptions": subscriptions}, 0.0)
    return model


def services(model: Model, now: float = 0.0) -> dict[str, ServiceRow]:
    return {row.id: row for row in model.services(now)}


def topics(model: Model, now: float = 0.0) -> dict[str, TopicRow]:
    return {row.id: row for row in model.topics(now)}


def test_at_first_there_is_no_connection_and_nothing_is_known() -> None:
    model = Model()
    assert model.trouble == "not connected yet"
    assert [*model.services(0.0), *model.topics(0.0), *model.errors()] == []
    head = model.head()
    assert head.uptime is head.connections is None
    assert [rate.now for rate in head.rates] == [None] * 3


def test_the_head_has_the_brokers_totals_and_their_past(model: Model) -> None:
    model.take(METRICS, {"metrics": METRIC_VALUES | {"router.message.rate": 40}}, 1.0)
    head = model.head()
    assert (head.uptime, head.connections, head.cpu, head.memory) == (3600, 7, 0.25, 4_000_000)
    assert [(rate.name, rate.now, list(rate.past)) for rate in head.rates] == [
        ("messages", 40, [30, 40]),
        ("publish", 10, [10, 10]),
        ("request", 9, [9, 9]),
    ]


def test_metrics_are_read_in_their_long_form_too(model: Model) -> None:
    long = {name: {"name": name, "type": "rate", "value": 5} for name in METRIC_VALUES}
    model.take(METRICS, {"metrics": long}, 1.0)
    assert model.head().uptime == 5


def test_without_metrics_connections_are_the_services_that_are_listed(model: Model) -> None:
    model.refused(METRICS, "TOPIC_NOT_SUPPORTED")
    head = model.head()
    assert head.connections == 2
    assert [rate.now for rate in head.rates] == [None] * 3
    assert model.missing == {METRICS: "TOPIC_NOT_SUPPORTED"}


def test_a_service_is_listed_with_the_topics_that_it_answers(model: Model) -> None:
    row = services(model)[ID]
    assert (row.name, row.description, row.topics) == ("Maker", "about Maker", ("a.b",))
    assert row.since == datetime(2026, 1, 1, tzinfo=UTC)
    assert (row.rate, row.p50, row.p99, row.errors) == (0.0, None, None, 0)
    assert services(model)[OTHER].topics == ()


def test_the_feed_tells_rates_latencies_and_errors_of_services_and_topics(model: Model) -> None:
    for number in range(4):
        model.take_event(audit_message("request", "a.b", f"c{number}", **{"from": OTHER}), 0.0)
        masked = {"to": ID, "maskedId": f"c{number}"}
        model.take_event(audit_message("request", "a.b", f"b{number}", **masked), 0.0)
        payload = {"error": {"code": "BROKEN", "message": "no"}} if number == 3 else {}
        answer = audit_message("response", "a.b", f"b{number}", payload=payload, **{"from": ID})
        model.take_event(answer, 0.0)
        model.take_event(audit_message("response", "a.b", f"c{number}", to=OTHER), 0.0)
    row = services(model, 1.0)[ID]
    assert (row.rate, row.p50, row.p99, row.errors) == (4.0, 0, 0, 1)
    topic = topics(model, 1.0)["request:a.b"]
    assert (topic.rate, topic.p50, topic.p99, topic.errors) == (4.0, 0, 0, 1)
    (error,) = model.errors()
    assert (error.topic, error.code, error.message, error.who) == ("a.b", "BROKEN", "no", "Maker")


def test_who_has_no_name_is_told_by_its_id(model: Model) -> None:
    error = {"error": {"code": "NO_ROUTE_FOUND", "message": "nobody"}}
    for who in (OTHER, "gone"):
        model.take_event(audit_message("response", "x", "c1", payload=error, to=who), 0.0)
    assert [row.who for row in model.errors()] == [OTHER, "gone"]


def test_topics_are_those_subscribed_to_and_those_with_traffic(model: Model) -> None:
    assert list(topics(model)) == ["request:a.b", "publish:c.#"]
    model.take_event(audit_message("publish", "c.d", **{"from": OTHER}), 0.0)
    assert list(topics(model)) == ["request:a.b", "publish:c.#", "publish:c.d"]
    # Its subscribers are those of the patterns that match.
    assert topics(model)["publish:c.d"].subscribers == (ID, OTHER)
    assert topics(model, 1.0)["publish:c.#"].rate == topics(model, 1.0)["publish:c.d"].rate == 1.0
    model.take(SUBSCRIPTIONS, {"subscriptions": []}, 1.0)
    assert topics(model, 1.0)["publish:c.d"].subscribers == ()
    assert services(model, 1.0)[ID].topics == ()
    assert list(topics(model, 100.0)) == []


def test_with_the_feed_off_rates_and_latencies_are_unknown_and_the_rest_stays(
    model: Model,
) -> None:
    model.take_event(audit_message("publish", "c.d", **{"from": OTHER}), 0.0)
    model.set_audit(Audit.OFF)
    assert list(topics(model)) == ["request:a.b", "publish:c.#"]
    row = topics(model)["publish:c.#"]
    assert (row.rate, row.p50, row.errors) == (None, None, None)
    service = services(model)[ID]
    assert (service.rate, service.p50, service.p99, service.errors) == (None, None, None, 0)


def test_with_the_feed_off_errors_of_services_come_from_the_metrics(model: Model) -> None:
    model.set_audit(Audit.OFF)
    rates = {
        f"registry.service.{{serviceid:{ID}}}.error.rate": 2,
        f"registry.service.{{serviceid:{OTHER}}}.error.rate": 0,
    }
    model.take(METRICS, {"metrics": rates}, 1.0)
    model.take(METRICS, {"metrics": rates}, 2.0)
    assert services(model, 2.0)[ID].errors == 4
    assert services(model, 2.0)[OTHER].errors == 0
    model.refused(METRICS, "TIMEOUT")
    assert services(model, 2.0)[ID].errors is None


def test_with_the_feed_on_errors_of_services_are_not_counted_twice(model: Model) -> None:
    rates = {f"registry.service.{{serviceid:{ID}}}.error.rate": 2}
    model.take(METRICS, {"metrics": rates}, 1.0)
    assert services(model, 1.0)[ID].errors == 0


def test_a_refused_feed_is_said_and_one_that_speaks_after_all_is_on(model: Model) -> None:
    model.refused(FEED, "FORBIDDEN")
    assert (model.audit, model.missing) == (Audit.REFUSED, {FEED: "FORBIDDEN"})
    model.take_event(audit_message("publish", "c.d", **{"from": OTHER}), 0.0)
    assert (model.audit, model.missing) == (Audit.ON, {})


def test_what_is_answered_again_is_not_missing_any_more(model: Model) -> None:
    model.refused(SERVICES, "TIMEOUT")
    model.take(SERVICES, {"services": []}, 0.0)
    assert model.missing == {}


def test_without_a_connection_the_last_known_figures_stay(model: Model) -> None:
    model.down("the connection was closed")
    assert model.trouble == "the connection was closed"
    assert len(services(model)) == 2
    model.refused(SERVICES, "TIMEOUT")
    model.up()
    assert (model.trouble, model.missing) == ("", {})


def test_audit_messages_that_cannot_be_read_are_counted(model: Model) -> None:
    model.take_event(b"{", 0.0)
    assert model.unreadable == 1
    assert model.heard == 1


@pytest.mark.parametrize("topic", [METRICS, SERVICES, SUBSCRIPTIONS])
@pytest.mark.parametrize(
    "make",
    [
        lambda key: None,
        lambda key: [],
        lambda key: {},
        lambda key: {key: None},
        lambda key: {key: {"a": None, "b": {"value": "x"}, "c": True}},
        lambda key: {key: [None, 1, {}, {"id": 7}]},
        lambda key: {key: [{"id": "x", "name": 1, "connectedAt": "then", "topic": 3}]},
        lambda key: {key: [{"topic": "a", "action": "request", "subscribers": [1, {}]}]},
    ],
    ids=range(8),
)
def test_answers_of_an_unknown_form_do_no_harm(
    model: Model, topic: str, make: Callable[[str], Any]
) -> None:
    keys = {METRICS: "metrics", SERVICES: "services", SUBSCRIPTIONS: "subscriptions"}
    model.take(topic, make(keys[topic]), 0.0)
    model.head()
    services(model), topics(model), list(model.errors())
