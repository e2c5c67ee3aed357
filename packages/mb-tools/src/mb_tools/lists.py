"""`mb services` and `mb topics`: who is connected, and who is subscribed to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from .connect import ask_list, connected
from .endpoint import Endpoint
from .names import Names
from .output import Output, json_line

__all__ = ["age", "run_services", "run_topics"]


async def run_services(endpoint: Endpoint, *, as_json: bool) -> None:
    """Print the services that are connected; this command is one of them."""
    output = Output(as_json)
    async with connected(endpoint) as client:
        await client.register_service("mb services", "Lists the services")
        services = await ask_list(client, "system.service.list", "services")
    if not output.people:
        await output.write("".join(map(json_line, services)))
        return
    now = datetime.now(UTC)
    _print_table(
        ("name", "connected", "last seen", "description", "id ..."),
        [
            (
                service.get("name") or "-",
                age(service.get("connectedAt"), now),
                age(service.get("lastHeartbeat"), now),
                service.get("description") or "",
                str(service.get("id", ""))[:8],
            )
            for service in services
        ],
    )


async def run_topics(endpoint: Endpoint, *, as_json: bool) -> None:
    """Print what is subscribed to, and by whom."""
    output = Output(as_json)
    async with connected(endpoint) as client:
        topics = await ask_list(client, "system.topic.list", "topics")
        names = Names(
            await ask_list(client, "system.service.list", "services") if output.people else ()
        )
    if not output.people:
        await output.write("".join(map(json_line, topics)))
        return
    _print_table(
        ("topic", "action", "subscribers (priority)"),
        [
            (
                str(entry.get("topic", "")),
                str(entry.get("action", "")),
                ", ".join(_subscriber(each, names) for each in entry.get("subscribers", ())),
            )
            for entry in topics
        ],
    )


def age(moment: object, now: datetime) -> str:
    """How long ago an ISO 8601 time was, in the two largest units that say something."""
    try:
        passed = now - datetime.fromisoformat(str(moment))
    except (TypeError, ValueError):
        return "-"
    seconds = max(0, int(passed / timedelta(seconds=1)))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    if minutes:
        return f"{minutes} min {seconds % 60} s"
    return f"{seconds} s"


# Columns that are not broken into lines, however narrow the terminal is.
_WHOLE = ("name", "connected", "last seen", "action", "id ...")


def _subscriber(subscriber: Mapping[str, Any], names: Names) -> str:
    service_id = str(subscriber.get("serviceId", ""))
    name = names.of(service_id)
    priority = subscriber.get("priority")
    return f"{name} ({priority:g})" if isinstance(priority, int | float) else name


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .exits import one_line

    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    Console().print(table)
