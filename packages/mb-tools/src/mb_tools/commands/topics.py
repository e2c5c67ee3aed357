"""List the topics with subscribers, and who they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ..connect import Endpoint, connected, endpoint_options, list_all, list_services
from ..output import FOLDED, WHOLE, Output
from ..runner import asynchronous
from ..shared_options import json_option
from ..text import short_id


@click.command(help=__doc__)
@endpoint_options
@json_option
@asynchronous()
async def command(endpoint: Endpoint, as_json: bool) -> None:
    output = Output(as_json)
    async with connected(endpoint) as client:
        topics = await list_all(client, "system.topic.list", "topics")
        services = await list_services(client) if output.people else []
    names = {service.get("id"): service.get("name") for service in services}

    def shown(subscriber: Mapping[str, Any]) -> str:
        service_id = str(subscriber.get("serviceId", ""))
        name = names.get(service_id) or short_id(service_id)
        priority = subscriber.get("priority")
        return f"{name} ({priority:g})" if isinstance(priority, int | float) else name

    def row(entry: Mapping[str, Any]) -> tuple[str, ...]:
        subscribers = ", ".join(map(shown, entry.get("subscribers", ())))
        return str(entry.get("topic", "")), str(entry.get("action", "")), subscribers

    columns = {"topic": FOLDED, "action": WHOLE, "subscribers (priority)": FOLDED}
    await output.print_entries(topics, columns, row)
