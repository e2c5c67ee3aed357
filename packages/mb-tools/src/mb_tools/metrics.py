"""`mb metrics`: the broker's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import anyio

from mb_core import MessageBrokerClient

from .connect import connected
from .endpoint import Endpoint
from .exits import Failure, Status
from .output import Output, json_line

__all__ = ["chosen", "run", "shown"]


async def run(
    endpoint: Endpoint, patterns: Sequence[str], *, watch: float | None, as_json: bool
) -> Status | None:
    """Print the metrics whose names match, once or every `watch` seconds."""
    output = Output(as_json)
    async with connected(endpoint) as client:
        if watch is not None and output.people:
            await _watch_table(client, patterns, watch)
        next_at = anyio.current_time()
        while True:
            metrics = await _read(client, patterns)
            if output.people:
                _console().print(_table(metrics))
            else:
                await output.write("".join(map(json_line, metrics)))
            if watch is None:
                return None
            next_at = max(next_at + watch, anyio.current_time())
            await anyio.sleep_until(next_at)


def chosen(metrics: Mapping[str, Any], patterns: Sequence[str]) -> list[dict[str, Any]]:
    """The metrics whose names match a pattern, or all, by name; names match in any case."""
    wanted = [pattern.lower() for pattern in patterns]
    return [
        {"name": name, **value} if isinstance(value, dict) else {"name": name, "value": value}
        for name, value in sorted(metrics.items())
        if not wanted or any(fnmatchcase(name.lower(), pattern) for pattern in wanted)
    ]


def shown(metric: Mapping[str, Any]) -> str:
    """A metric's value for people: bytes, shares, rates and times each in their own way."""
    name, kind, value = metric["name"], metric.get("type"), metric.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    if kind == "percent" or name.endswith(".percent"):
        return f"{100 * value:.1f} %"
    if kind == "uptime" or name.endswith(".uptime"):
        return _duration(value)
    if name.endswith(".bytes"):
        return _bytes(value)
    if kind == "rate" or ".rate" in name:
        return f"{value:,.6g} /s"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


async def _read(client: MessageBrokerClient, patterns: Sequence[str]) -> list[dict[str, Any]]:
    answer = (await client.request("system.metrics", {"showAll": True})).payload
    metrics = answer.get("metrics") if isinstance(answer, dict) else None
    found = chosen(metrics, patterns) if isinstance(metrics, dict) else []
    if not found:
        raise Failure(f"the broker has no metric {' or '.join(patterns) or 'at all'}")
    return found


async def _watch_table(
    client: MessageBrokerClient, patterns: Sequence[str], seconds: float
) -> None:
    """Redraw one table in its place, forever."""
    from rich.live import Live

    with Live(console=_console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(_table(await _read(client, patterns)), refresh=True)
            await anyio.sleep(seconds)


def _console() -> Any:
    from rich.console import Console

    return Console()


def _table(metrics: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("type", style="dim")
    for metric in metrics:
        table.add_row(Text(metric["name"]), shown(metric), str(metric.get("type") or ""))
    return table


def _bytes(value: float) -> str:
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def _duration(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    clock = f"{hours:02}:{minutes:02}:{rest:02}"
    return f"{days} d {clock}" if days else clock
