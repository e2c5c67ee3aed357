"""Print the broker's metrics: all of them, or those whose names match.

Patterns work as for file names: 'router.*', '*.rate'. Quote them for the shell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import anyio
import click

from mb_core import MessageBrokerClient

from ..connect import Endpoint, connected, endpoint_options
from ..errors import Failure
from ..output import FOLDED, Output, table
from ..runner import asynchronous
from ..shared_options import SECONDS, json_option
from ..text import UNKNOWN, bytes_text, duration_text, number_text

if TYPE_CHECKING:
    from rich.text import Text

_COLUMNS: dict[str, dict[str, Any]] = {
    "metric": FOLDED,
    "value": {"justify": "right", "no_wrap": True},
    "type": {"style": "dim"},
}


@click.command(help=__doc__)
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--watch", type=SECONDS, metavar="SECONDS", help="Repeat every SECONDS until Ctrl-C.")
@endpoint_options
@json_option
@asynchronous(endless=lambda given: given["watch"] is not None)
async def command(
    endpoint: Endpoint, patterns: tuple[str, ...], watch: float | None, as_json: bool
) -> None:
    output = Output(as_json)
    async with connected(endpoint) as client:
        if watch is not None and output.people:
            await _watch(client, patterns, watch)
        next_at = anyio.current_time()
        while True:
            metrics = await _read(client, patterns)
            await output.print_entries(metrics, _COLUMNS, _row)
            if watch is None:
                return
            next_at = max(next_at + watch, anyio.current_time())
            await anyio.sleep_until(next_at)


async def _watch(client: MessageBrokerClient, patterns: Sequence[str], seconds: float) -> None:
    """Redraw one table in its place, forever."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            rows = map(_row, await _read(client, patterns))
            live.update(table(_COLUMNS, rows), refresh=True)
            await anyio.sleep(seconds)


async def _read(client: MessageBrokerClient, patterns: Sequence[str]) -> list[dict[str, Any]]:
    answer = (await client.request("system.metrics", {"showAll": True})).payload
    metrics = answer.get("metrics") if isinstance(answer, dict) else None
    found = matching(metrics, patterns) if isinstance(metrics, dict) else []
    if not found:
        raise Failure(f"the broker has no metric {' or '.join(patterns) or 'at all'}")
    return found


def matching(metrics: Mapping[str, Any], patterns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the metrics whose names match a pattern (ignoring case), or all of them, sorted by
    name."""
    wanted = [pattern.lower() for pattern in patterns]
    return [
        {"name": name, **value} if isinstance(value, dict) else {"name": name, "value": value}
        for name, value in sorted(metrics.items())
        if not wanted or any(fnmatchcase(name.lower(), pattern) for pattern in wanted)
    ]


def _row(metric: Mapping[str, Any]) -> tuple[str | Text, ...]:
    return metric["name"], value_text(metric), str(metric.get("type") or "")


def value_text(metric: Mapping[str, Any]) -> str:
    """Format a metric's value for people, according to its type or name."""
    name, kind, value = metric["name"], metric.get("type"), metric.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNKNOWN if value is None else str(value)
    if kind == "percent" or name.endswith(".percent"):
        return f"{100 * value:.1f} %"
    if kind == "uptime" or name.endswith(".uptime"):
        return duration_text(value)
    if name.endswith(".bytes"):
        return bytes_text(value)
    if kind == "rate" or ".rate" in name:
        return f"{number_text(value)} /s"
    return number_text(value)
