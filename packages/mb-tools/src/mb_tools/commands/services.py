"""List the services that are connected to the broker."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from ..connect import Endpoint, connected, endpoint_options, list_all
from ..options import json_option
from ..output import Output, print_table
from ..payloads import json_line
from ..runner import asynchronous
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
    if not output.people:
        await output.write("".join(map(json_line, services)))
        return
    now = datetime.now(UTC)
    whole, folded = {"overflow": "fold", "no_wrap": True}, {"overflow": "fold"}
    print_table(
        {
            "name": whole,
            "connected": whole,
            "last seen": whole,
            "description": folded,
            "id ...": whole,
        },
        (
            (
                service.get("name") or UNKNOWN,
                age(service.get("connectedAt"), now),
                age(service.get("lastHeartbeat"), now),
                service.get("description") or "",
                short_id(str(service.get("id", ""))),
            )
            for service in services
        ),
    )


def age(moment: object, now: datetime) -> str:
    """Return how long ago an ISO 8601 time was."""
    try:
        return duration_text((now - datetime.fromisoformat(str(moment))).total_seconds())
    except (TypeError, ValueError):
        return UNKNOWN
