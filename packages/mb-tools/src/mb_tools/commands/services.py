"""List the services connected to the broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from ..connect import Endpoint, connected, endpoint_options, list_all
from ..output import FOLDED, WHOLE, Output
from ..runner import asynchronous
from ..shared_options import json_option
from ..text import UNKNOWN, duration_text, short_id


@click.command(help=__doc__)
@endpoint_options
@json_option
@asynchronous()
async def command(endpoint: Endpoint, as_json: bool) -> None:
    output = Output(as_json)
    async with connected(endpoint) as client:
        await client.register_service("mb services", "Lists the services")
        services = await list_all(client, "system.service.list", "services")
    now = datetime.now(UTC)
    with_users = any("user" in service for service in services)

    def row(service: dict[str, Any]) -> tuple[str, ...]:
        user = (service.get("user") or UNKNOWN,) if with_users else ()
        return (
            service.get("name") or UNKNOWN,
            *user,
            age(service.get("connectedAt"), now),
            age(service.get("lastHeartbeat"), now),
            service.get("description") or "",
            short_id(str(service.get("id", ""))),
        )

    columns = {
        "name": WHOLE,
        **({"user": WHOLE} if with_users else {}),
        "connected": WHOLE,
        "last seen": WHOLE,
        "description": FOLDED,
        "id ...": WHOLE,
    }
    await output.print_entries(services, columns, row)


def age(moment: object, now: datetime) -> str:
    """Return how long ago an ISO 8601 time was."""
    try:
        return duration_text((now - datetime.fromisoformat(str(moment))).total_seconds())
    except (TypeError, ValueError):
        return UNKNOWN
