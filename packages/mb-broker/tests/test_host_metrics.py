"""Metrics of the process and the machine, with psutil and without it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from mb_broker import host_metrics as module
from mb_broker.host_metrics import host_metrics
from mb_broker.metrics import Metric, MetricType


@pytest.fixture(autouse=True)
def none_read_before() -> Iterator[None]:
    module._reader.cache_clear()
    yield
    module._reader.cache_clear()


def by_name(metrics: object) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}  # type: ignore[attr-defined]


def test_every_processor_core_has_a_metric_with_its_number() -> None:
    found = by_name(host_metrics()())
    count = psutil.cpu_count()
    assert [found[f"system.cpu.{{core:{n}}}.percent"].parameters for n in range(count)] == [
        {"core": str(n)} for n in range(count)
    ]


def test_the_figures_are_those_of_this_process_and_machine() -> None:
    found = by_name(host_metrics()())
    memory = psutil.virtual_memory()
    own = found["process.memory.bytes"].value
    assert 0.5 < own / psutil.Process(os.getpid()).memory_info().rss < 2
    assert found["process.memory.percent"].value == pytest.approx(own / memory.total)
    assert 0 < found["system.memory.bytes"].value < memory.total
    assert found["system.memory.percent"].value == pytest.approx(memory.percent / 100, abs=0.2)
    assert found["system.uptime"].value == pytest.approx(time.time() - psutil.boot_time(), abs=5)


def test_shares_are_from_0_to_1() -> None:
    shares = [metric for metric in host_metrics()() if metric.type is MetricType.PERCENT]
    assert len(shares) == 4 + psutil.cpu_count()
    assert all(0 <= metric.value <= 1 for metric in shares)


def test_who_asks_often_gets_what_was_read_and_the_uptime_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    read = host_metrics()
    first = by_name(read())
    now += 0.9
    again = by_name(read())
    now += 0.2
    later = by_name(read())
    assert all(again[name] is metric for name, metric in first.items() if "uptime" not in name)
    assert later["process.memory.bytes"] is not first["process.memory.bytes"]
    uptimes = [each["process.uptime"].value for each in (first, again, later)]
    assert uptimes == [0, 0, 1]


def test_brokers_of_one_process_share_what_was_read() -> None:
    first, second = by_name(host_metrics()()), by_name(host_metrics()())
    assert first["system.memory.bytes"] is second["system.memory.bytes"]


def test_without_psutil_there_is_the_uptime_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    (metric,) = host_metrics()()
    assert (metric.name, metric.type, metric.value) == ("process.uptime", MetricType.UPTIME, 0)
