"""Metrics of this process and this machine, read with psutil if it is installed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from .metrics import Metric, MetricType

__all__ = ["host_metrics"]

# Seconds for which the metrics are cached: CPU shares over a short time are meaningless, and
# reading takes milliseconds.
_KEEP_SECONDS = 1.0


def host_metrics() -> Callable[[], Iterable[Metric]]:
    """Return a function that reads the metrics; without psutil, only the process's uptime."""
    started = time.monotonic()

    def uptime() -> Metric:
        return Metric("process.uptime", MetricType.UPTIME, int(time.monotonic() - started))

    try:
        read = _reader(os.getpid())
    except ImportError:
        return lambda: (uptime(),)
    return lambda: (*read(), uptime())


@cache
def _reader(pid: int) -> Callable[[], list[Metric]]:
    """Return a function that reads the metrics of this process; all its brokers share one.

    The process id is the key of the cache, because a forked process needs a reader of its own.
    """
    import psutil

    process = psutil.Process(pid)
    process.cpu_percent()  # shares are counted from the previous call
    psutil.cpu_percent(percpu=True)
    kept: list[Metric] = []
    read_at = float("-inf")

    def read() -> list[Metric]:
        nonlocal kept, read_at
        now = time.monotonic()
        if now - read_at >= _KEEP_SECONDS:
            # Reading opens files; if the process has too many open, keep the last figures.
            with contextlib.suppress(OSError, psutil.Error):
                kept = list(_read(process))
            read_at = now
        return kept

    return read


def _read(process: Any) -> Iterator[Metric]:
    import psutil

    cores = psutil.cpu_percent(percpu=True)
    memory = psutil.virtual_memory()
    with process.oneshot():
        # Over a very short time, psutil reports more than 100 percent.
        own_share = min(process.cpu_percent() / 100 / max(len(cores), 1), 1.0)
        own_memory = process.memory_info().rss
    gauge, percent = MetricType.GAUGE, MetricType.PERCENT
    yield Metric("process.cpu.percent", percent, own_share)
    yield Metric("process.memory.bytes", gauge, own_memory)
    yield Metric("process.memory.percent", percent, own_memory / memory.total)
    yield Metric("system.cpu.percent", percent, sum(cores) / max(len(cores), 1) / 100)
    for number, share in enumerate(cores):
        name = f"system.cpu.{{core:{number}}}.percent"
        yield Metric(name, percent, share / 100, {"core": str(number)})
    yield Metric("system.memory.bytes", gauge, memory.total - memory.available)
    yield Metric("system.memory.percent", percent, memory.percent / 100)
    yield Metric("system.uptime", MetricType.UPTIME, int(time.time() - psutil.boot_time()))
