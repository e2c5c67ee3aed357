"""The broker's metrics: each name, its type, and what makes it move."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_broker import Broker, Router
from mb_broker.host_metrics import host_metrics
from mb_broker.metrics import Metric, MetricType
from mb_testing import until

ID = "123e4567-e89b-42d3-a456-426614174000"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

Connect = Callable[..., Awaitable[Any]]

# docs/protocol.md, "Metrics"; ID and N stand for parameters.
OF_ROUTING = {
    "router.message.count": "gauge",
    "router.message.rate": "rate",
    "router.message.count.error": "gauge",
    "router.message.rate.error": "rate",
    "router.message.size.avg": "average",
    "router.message.size.max": "maximum",
    "router.publish.count": "gauge",
    "router.publish.count.dropped": "gauge",
    "router.publish.count.error": "gauge",
    "router.publish.rate": "rate",
    "router.publish.rate.dropped": "rate",
    "router.publish.rate.error": "rate",
    "router.request.count": "gauge",
    "router.request.count.dropped": "gauge",
    "router.request.count.error": "gauge",
    "router.request.count.timeout": "gauge",
    "router.request.rate": "rate",
    "router.request.rate.dropped": "rate",
    "router.request.rate.error": "rate",
    "router.request.rate.timeout": "rate",
    "router.response.count": "gauge",
    "router.response.count.error": "gauge",
    "router.response.rate": "rate",
    "router.response.rate.error": "rate",
    "registry.count": "gauge",
    "registry.discovery.rate": "rate",
    "registry.registration.rate": "rate",
    "registry.unregistration.rate": "rate",
    "registry.service.{serviceid:ID}.error.rate": "rate",
    "registry.service.{serviceid:ID}.uptime": "uptime",
    "connection.active": "gauge",
    "connection.connected.rate": "rate",
    "connection.connected.total": "gauge",
    "connection.disconnected.rate": "rate",
    "connection.disconnected.total": "gauge",
    "connection.failed.rate": "rate",
    "connection.failed.total": "gauge",
    "connection.rejected.rate": "rate",
    "connection.rejected.total": "gauge",
    # This broker's own.
    "connection.cutoff.rate": "rate",
    "connection.cutoff.total": "gauge",
    **dict.fromkeys(("connection.unauthorized.rate", "router.forbidden.rate"), "rate"),
    **dict.fromkeys(("connection.unauthorized.total", "router.forbidden.count"), "gauge"),
}
OF_HOST = {
    "process.cpu.percent": "percent",
    "process.memory.bytes": "gauge",
    "process.memory.percent": "percent",
    "process.uptime": "uptime",
    "system.cpu.percent": "percent",
    "system.cpu.{core:N}.percent": "percent",
    "system.memory.bytes": "gauge",
    "system.memory.percent": "percent",
    "system.uptime": "uptime",
}


def plain(name: str) -> str:
    """A name with ID and N in place of its parameters' values."""
    return re.sub(r"core:\d+", "core:N", re.sub(r"serviceid:[^}]+", "serviceid:ID", name))


def values(bench: Any) -> dict[str, float]:
    return {metric.name: metric.value for metric in bench.router.metrics.snapshot(bench.now)}


def moved(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has changed, but for rates, sizes and the count of all messages."""
    return {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if value != before.get(name, 0)
        and not re.search(r"\.rate|\.size\.|uptime|^router\.message\.count$", name)
    }


# Names, types, values


def test_every_metric_of_the_protocol_is_there_with_its_type() -> None:
    router = Router(host_metrics=host_metrics())
    router.connect(0.0)
    found = {plain(metric.name): metric.type.value for metric in router.metrics.snapshot(1.0)}
    assert found == OF_ROUTING | OF_HOST


def test_values_of_each_type_are_within_its_range() -> None:
    router = Router(host_metrics=host_metrics())
    service = router.connect(0.0)
    router.receive(service, [b"publish:a.b:1.0.0\n{}", b"nonsense"], 0.5)
    for metric in router.metrics.snapshot(1.5):
        assert metric.value >= 0
        if metric.type is MetricType.PERCENT:
            assert metric.value <= 1
        if metric.type in (MetricType.RATE, MetricType.UPTIME, MetricType.MAXIMUM):
            assert isinstance(metric.value, int)


def test_parameters_stand_in_the_name() -> None:
    router = Router(host_metrics=host_metrics())
    service = router.connect(0.0)
    with_parameters = [m for m in router.metrics.snapshot(1.0) if m.parameters]
    assert {m.name for m in with_parameters} > {
        f"registry.service.{{serviceid:{service.id}}}.uptime"
    }
    for metric in with_parameters:
        ((name, value),) = metric.parameters.items()
        assert f"{{{name}:{value}}}" in metric.name


def test_the_drivers_metrics_are_among_them() -> None:
    own = Metric("process.uptime", MetricType.UPTIME, 7)
    router = Router(host_metrics=lambda: [own])
    assert own in list(router.metrics.snapshot(1.0))


# What makes them move


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param("publish:x.y:1.0.0\n{}", {"router.publish.count": 1}, id="publish"),
        pytest.param(
            "publish:no.body:1.0.0\n{}",
            {"router.publish.count": 1, "router.publish.count.dropped": 1},
            id="publish to nobody",
        ),
        pytest.param(f"request:a.b:1.0.0:{ID}\n{{}}", {"router.request.count": 1}, id="request"),
        pytest.param(
            "request:no.body:1.0.0\n{}",
            {
                "router.request.count": 1,
                "router.request.count.error": 1,
                "router.message.count.error": 1,
            },
            id="request to nobody",
        ),
        pytest.param(
            "request:system.heartbeat:1.0.0\n{}", {"router.request.count": 1}, id="system"
        ),
        pytest.param(
            "publish:system.heartbeat:1.0.0\n{}",
            {
                "router.publish.count": 1,
                "router.publish.count.error": 1,
                "router.message.count.error": 1,
            },
            id="system, refused",
        ),
        pytest.param(
            f"response:a.b:1.0.0:{ID}\n{{}}",
            {
                "router.response.count": 1,
                "router.response.count.error": 1,
                "router.message.count.error": 1,
            },
            id="response to nothing",
        ),
        pytest.param("nonsense", {"router.message.count.error": 1}, id="malformed"),
        pytest.param(
            b"publish:x.y:1.0.0\n\xff",
            {
                "router.publish.count": 1,
                "router.publish.count.error": 1,
                "router.message.count.error": 1,
            },
            id="no UTF-8",
        ),
    ],
)
def test_a_message_is_counted_by_what_became_of_it(
    message: str | bytes, expected: dict[str, float], bench: Any
) -> None:
    peer = bench.join()
    bench.join().subscribe("a.b", "request").subscribe("x.y")
    before = values(bench)
    peer.send(message)
    after = values(bench)
    assert moved(before, after) == expected
    assert after["router.message.count"] == before["router.message.count"] + 1


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("{}", {"router.response.count": 1}),
        ('{"error":"none"}', {"router.response.count": 1}),
        ('{"error":{"code":"A","message":"m"},"ok":true}', {"router.response.count": 1}),
        ("error:{}", {"router.response.count": 1, "router.response.count.error": 1}),
        (
            '{"error":{"code":"A","message":"m"}}',
            {"router.response.count": 1, "router.response.count.error": 1},
        ),
    ],
)
def test_a_response_is_an_error_if_its_service_says_so(
    payload: str, expected: dict[str, float], bench: Any
) -> None:
    peer, responder = bench.join(), bench.join().subscribe("a.b", "request")
    peer.send(f"request:a.b:1.0.0:{ID}\n{{}}")
    broker_id = responder.take_one().partition(b"\n")[0].decode().split(":")[3]
    before = values(bench)
    responder.send(f"response:a.b:1.0.0:{broker_id}\n{payload}")
    assert moved(before, values(bench)) == expected


def test_timeouts_and_dropped_requests_are_counted(new_bench: Callable[..., Any]) -> None:
    bench = new_bench(max_outstanding=2, request_timeout=1.0)
    peer = bench.join()
    bench.join().subscribe("a.b", "request")
    before = values(bench)
    peer.send(*[f"request:a.b:1.0.0:{ID}\n{{}}"] * 3)
    bench.advance(1)
    after = values(bench)
    assert moved(before, after) == {
        "router.request.count": 3,
        "router.request.count.dropped": 1,
        "router.request.count.timeout": 2,
    }
    assert after["router.request.rate.timeout"] == 0
    bench.advance(1)
    assert values(bench)["router.request.rate.timeout"] == 2


def test_services_are_counted_as_they_come_register_and_go(bench: Any) -> None:
    peers = [bench.join() for _ in range(3)]
    peers[0].ask("service.register", {"name": "one", "description": "first"})
    peers[0].ask("service.list", {})
    peers[0].leave()
    peers[1].leave()
    bench.now += 1
    found = values(bench)
    assert found["registry.count"] == found["connection.active"] == 1
    assert found["connection.connected.total"] == found["connection.connected.rate"] == 3
    assert found["connection.disconnected.total"] == found["connection.disconnected.rate"] == 2
    assert found["registry.registration.rate"] == 1
    assert found["registry.unregistration.rate"] == 1  # only one had registered
    assert found["registry.discovery.rate"] == 1
    bench.now += 1
    assert {value for name, value in values(bench).items() if name.endswith(".rate")} == {0}


def test_a_service_has_its_errors_and_uptime_until_it_leaves(bench: Any) -> None:
    peer, other = bench.join(), bench.join()
    bench.now += 61.5
    peer.send("nonsense", "request:no.body:1.0.0\n{}")
    bench.now += 1
    found = values(bench)
    assert found[f"registry.service.{{serviceid:{peer.id}}}.error.rate"] == 2
    assert found[f"registry.service.{{serviceid:{other.id}}}.error.rate"] == 0
    assert found[f"registry.service.{{serviceid:{peer.id}}}.uptime"] == 62
    peer.leave()
    assert not [name for name in values(bench) if peer.id in name]


def test_sizes_are_those_of_whole_messages(bench: Any) -> None:
    assert values(bench)["router.message.size.avg"] == 0
    assert values(bench)["router.message.size.max"] == 0
    peer = bench.join()
    peer.send(b"x" * 100, b"x" * 200)
    peer.send(b"x" * 60)
    found = values(bench)
    assert found["router.message.size.avg"] == 120
    assert found["router.message.size.max"] == 200


def test_rates_are_of_the_last_whole_second(bench: Any) -> None:
    bench.now = 1000.9
    peer = bench.join()
    bench.join().subscribe("a.b")
    publish = "publish:a.b:1.0.0\n{}"
    peer.send(publish, publish)
    assert values(bench)["router.publish.rate"] == 0
    bench.now = 1001.0
    assert values(bench)["router.publish.rate"] == 2
    peer.send(publish)
    assert values(bench)["router.publish.rate"] == 2
    bench.now = 1001.999
    assert values(bench)["router.publish.rate"] == 2
    bench.now = 1002.0
    assert values(bench)["router.publish.rate"] == 1
    bench.now = 1003.0
    assert values(bench)["router.publish.rate"] == 0
    assert values(bench)["router.publish.count"] == 3


def test_who_asks_in_the_middle_of_a_batch_is_told_of_what_came_before(bench: Any) -> None:
    peer = bench.join()
    publish = "publish:a.b:1.0.0\n{}"
    peer.send(publish, publish, "request:system.metrics:1.0.0\n{}", publish)
    answer = next(m for m in peer.take() if m.startswith(b"response:system.metrics"))
    assert b'"router.publish.count":2,' in answer
    assert values(bench)["router.publish.count"] == 3


@given(
    st.lists(
        st.sampled_from(
            [
                b"nonsense",
                b"publish:a.b:1.0.0\n{}",
                b"publish:a.b:1.0.0\n\xff",
                b"request:a.b:1.0.0\n{}",
                b"request:a.b:1.0.0\n" + b"x" * 16_385,
                b"request:system.x:1.0.0\n{}",
                b"publish:system.heartbeat:1.0.0\n{}",
                b"response:a.b:1.0.0\n{}",
                b"response:a.b:1.0.0\n\xff",
            ]
        ),
        max_size=20,
    )
)
def test_there_are_never_more_errors_than_messages(messages: list[bytes]) -> None:
    router = Router()
    service = router.connect(0.0)
    router.receive(service, messages, 0.0)
    found = {metric.name: metric.value for metric in router.metrics.snapshot(1.0)}
    actions = ("publish", "request", "response")
    for action in (*actions, "message"):
        assert found[f"router.{action}.count.error"] <= found[f"router.{action}.count"]
        assert found[f"router.{action}.rate.error"] == found[f"router.{action}.count.error"]
    malformed = messages.count(b"nonsense")
    assert sum(found[f"router.{action}.count"] for action in actions) == len(messages) - malformed


# system.metrics


def test_metrics_are_asked_for_by_name_and_value(bench: Any) -> None:
    peer = bench.join()
    answer = peer.ask("metrics", {})
    assert set(answer) == {"metrics"}
    assert {plain(name) for name in answer["metrics"]} == set(OF_ROUTING)
    assert answer["metrics"]["connection.active"] == 1


def test_show_all_adds_name_type_and_time(bench: Any) -> None:
    peer = bench.join()
    found = peer.ask("metrics", {"showAll": True})["metrics"]
    assert {plain(name): entry["type"] for name, entry in found.items()} == OF_ROUTING
    for name, entry in found.items():
        assert entry["name"] == name
        assert TIME.fullmatch(entry["timestamp"])
        assert set(entry) == {"name", "type", "timestamp", "value"}


@pytest.mark.parametrize("show_all", [False, None, 1, "yes"])
def test_only_true_shows_all(show_all: Any, bench: Any) -> None:
    assert bench.join().ask("metrics", {"showAll": show_all})["metrics"]["connection.active"] == 1


def test_a_filter_gives_the_metrics_with_these_parameters(bench: Any) -> None:
    peer, other = bench.join(), bench.join()

    def names(wanted: Any) -> set[str]:
        return set(peer.ask("metrics", {"paramFilter": wanted})["metrics"])

    of_other = f"registry.service.{{serviceid:{other.id}}}"
    assert names({"serviceid": other.id}) == {f"{of_other}.error.rate", f"{of_other}.uptime"}
    assert names({"serviceId": other.id}) == names({"serviceid": other.id})
    assert names({"serviceid": "nobody"}) == names({"core": "0"}) == set()
    assert names({"serviceid": other.id, "core": "0"}) == set()
    assert names({}) == names(None) > names({"serviceid": peer.id})


def test_a_filter_takes_numbers_and_shows_all(bench: Any) -> None:
    bench.router.metrics.host = lambda: [
        Metric(f"system.cpu.{{core:{n}}}.percent", MetricType.PERCENT, 0.5, {"core": str(n)})
        for n in range(3)
    ]
    payload = {"showAll": True, "paramFilter": {"core": 1}}
    (entry,) = bench.join().ask("metrics", payload)["metrics"].values()
    assert (entry["name"], entry["value"]) == ("system.cpu.{core:1}.percent", 0.5)


@pytest.mark.parametrize("wanted", ["core", 5, ["core"], True, False, 0, ""], ids=repr)
def test_a_filter_that_is_no_object_is_refused(wanted: Any, bench: Any) -> None:
    error = bench.join().ask("metrics", {"paramFilter": wanted})["error"]
    assert error["code"] == "INVALID_REQUEST"
    assert error["details"] == {"paramFilter": wanted}


# As a broker has them


@pytest.mark.anyio
async def test_a_broker_counts_its_connections(connect: Connect) -> None:
    urls = ("memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0")
    with anyio.fail_after(5):
        async with Broker(*urls, max_connections=2, page=False) as broker:
            asking = await connect(broker.url_of("memory"))
            second = await connect(broker.url_of("tcp"))
            rejected = await connect(broker.url_of("tcp"), greeted=False)
            await rejected.close()
            await second.close()
            port = int(broker.url_of("ws").rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", port) as stranger:
                await stranger.send(b"nonsense\r\n\r\n")
                with pytest.raises(anyio.EndOfStream):
                    await stranger.receive()
            await until(lambda: broker.connections == 1)
            found = (await asking.ask("metrics", {}))["metrics"]
            assert {
                name: found[f"connection.{name}"]
                for name in (
                    "active",
                    "connected.total",
                    "disconnected.total",
                    "failed.total",
                    "rejected.total",
                    "cutoff.total",
                )
            } == {
                "active": 1,
                "connected.total": 2,
                "disconnected.total": 1,
                "failed.total": 1,
                "rejected.total": 1,
                "cutoff.total": 0,
            }
            assert "process.memory.bytes" in found
