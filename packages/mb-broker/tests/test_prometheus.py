"""Metrics in the form that Prometheus reads, read by its own parser."""

from __future__ import annotations

import sys
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mb_broker import Router
from mb_broker.host_metrics import host_metrics
from mb_broker.http import PROMETHEUS_TYPE, prometheus_text
from mb_broker.metrics import Metric, MetricType

GAUGE = MetricType.GAUGE


def read(text: bytes) -> dict[str, Any]:
    """The families of a text by name; a counter's without `_total`."""
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def all_of_a_router() -> dict[str, Any]:
    router = Router(host_metrics=host_metrics())
    for _ in range(2):
        router.connect(0.0)
    return read(prometheus_text(router.metrics.snapshot(1.0, of_services=False)))


def test_without_metrics_there_is_nothing() -> None:
    assert read(prometheus_text([])) == {}


def test_names_begin_with_mb_and_have_underscores() -> None:
    families = read(prometheus_text([Metric("router.message.size.avg", MetricType.AVERAGE, 1.5)]))
    family = families["mb_router_message_size_avg"]
    assert family.documentation == "router.message.size.avg (average)"
    assert [(s.name, s.labels, s.value) for s in family.samples] == [
        ("mb_router_message_size_avg", {}, 1.5)
    ]


def test_parameters_are_labels_of_one_family() -> None:
    metrics = [
        Metric(f"system.cpu.{{core:{n}}}.percent", MetricType.PERCENT, n / 4, {"core": str(n)})
        for n in range(3)
    ]
    (family,) = read(prometheus_text(metrics)).values()
    assert family.name == "mb_system_cpu_core_percent"
    assert [(s.labels, s.value) for s in family.samples] == [
        ({"core": "0"}, 0.0),
        ({"core": "1"}, 0.25),
        ({"core": "2"}, 0.5),
    ]


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "\N{SNOWMAN}", ""], ids=repr)
def test_a_parameter_may_have_any_value(value: str) -> None:
    metric = Metric(f"a.{{x:{value}}}.b", GAUGE, 1, {"x": value})
    (family,) = read(prometheus_text([metric])).values()
    assert family.name == "mb_a_x_b"
    assert [sample.labels for sample in family.samples] == [{"x": value}]


@pytest.mark.parametrize(
    ("name", "kind", "sample"),
    [
        ("router.message.count", "counter", "mb_router_message_count_total"),
        ("router.request.count.timeout", "counter", "mb_router_request_count_timeout_total"),
        ("connection.failed.total", "counter", "mb_connection_failed_total"),
        ("connection.active", "gauge", "mb_connection_active"),
        ("registry.count", "gauge", "mb_registry_count"),
        ("router.message.rate.error", "gauge", "mb_router_message_rate_error"),
        ("process.memory.bytes", "gauge", "mb_process_memory_bytes"),
    ],
)
def test_what_only_grows_is_a_counter(name: str, kind: str, sample: str) -> None:
    (family,) = read(prometheus_text([Metric(name, GAUGE, 3)])).values()
    assert family.type == kind
    assert [each.name for each in family.samples] == [sample]


def test_of_all_metrics_only_the_totals_are_counters() -> None:
    families = all_of_a_router()
    counters = {name for name, family in families.items() if family.type == "counter"}
    assert all(name.startswith(("mb_router_", "mb_connection_")) for name in counters)
    assert not [name for name in counters if "rate" in name or "size" in name]
    assert len(counters) == 18
    assert {family.type for family in families.values()} == {"counter", "gauge"}


def test_each_family_stands_once_with_all_its_samples() -> None:
    families = all_of_a_router()
    assert len(families["mb_system_cpu_core_percent"].samples) == (psutil.cpu_count() or 0)
    router = Router()
    text = prometheus_text(router.metrics.snapshot(1.0, of_services=False)).decode()
    helps = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(helps) == len(set(helps))


def test_the_content_type_is_that_of_the_text_form() -> None:
    assert PROMETHEUS_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_without_its_library_it_raises_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ImportError):
        prometheus_text([])
