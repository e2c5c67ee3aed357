"""The broker's metrics in the text form that Prometheus reads, written by prometheus-client."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .metrics import Metric

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PARAMETER = re.compile(r"\{([a-z]+):[^}]*\}")
# registry.count is none: it goes down as well.
_TOTAL = re.compile(r"router\.\w+\.count(\.\w+)?|connection\.\w+\.total")


def exposition(metrics: Iterable[Metric]) -> bytes:
    """Each metric under its name with `mb_` before it and `_` for dots; parameters are labels.

    Totals are counters, everything else gauges.  Raises ImportError without prometheus-client.
    """
    from prometheus_client.core import CollectorRegistry
    from prometheus_client.exposition import generate_latest

    given = list(metrics)

    class Snapshot:
        def collect(self) -> Iterator[Any]:
            yield from _families(given)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshot())
    return bytes(generate_latest(registry))


def _families(metrics: list[Metric]) -> Iterator[Any]:
    """The metrics by name: those that differ only in their parameters together."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    families: dict[str, Any] = {}
    for metric in metrics:
        plain = _PARAMETER.sub(r"\1", metric.name)
        family = families.get(plain)
        if family is None:
            kind = CounterMetricFamily if _TOTAL.fullmatch(plain) else GaugeMetricFamily
            name = "mb_" + plain.removesuffix(".total").replace(".", "_")
            family = kind(name, f"{plain} ({metric.type.value})", labels=list(metric.parameters))
            families[plain] = family
        family.add_metric(list(metric.parameters.values()), metric.value)
    yield from families.values()
