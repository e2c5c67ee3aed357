"""Print messages published to topics that match a PATTERN.

In a pattern, + matches exactly one segment and a final # any number of them. Quote patterns for the
shell. On a pipe each message is a line of JSON with topic, action, requestId and payload.
"""

from __future__ import annotations

import math
from contextlib import AsyncExitStack

import anyio
import click

from mb_core import Message, Subscription, matches

from ..connect import Endpoint, endpoint_options, following, hint
from ..message_printer import MessagePrinter
from ..output import Output
from ..payloads import json_line, payload_text, raw_json
from ..runner import asynchronous
from ..shared_options import count_option, json_option, reconnect_option, timeout_option
from ..text import clock


@click.command(help=__doc__)
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@count_option("messages")
@timeout_option("Stop after MS milliseconds; exit with 1 if fewer than COUNT messages arrived.")
@reconnect_option
@endpoint_options
@json_option
@asynchronous(endless=lambda given: given["count"] is None and given["timeout"] is None)
async def command(
    endpoint: Endpoint,
    patterns: tuple[str, ...],
    count: int | None,
    timeout: int | None,
    reconnect: bool,
    as_json: bool,
) -> None:
    different = list({pattern.lower(): pattern for pattern in patterns}.values())
    output = Output(as_json)

    def line(messages: Subscription, message: Message) -> str | None:
        # A message arrives once per matching pattern; print it only for the first one.
        if messages.topic != next(each for each in different if matches(each, message.topic)):
            return None
        return _line(message, output)

    printer = MessagePrinter(output, line, count=count, timeout=timeout)
    shown = " ".join(different)
    # With --reconnect, the time spent waiting for the broker counts as well.
    with anyio.move_on_after(printer.seconds if reconnect else math.inf):
        async with (
            following(endpoint, "mb sub", f"Prints {shown}", reconnect=reconnect) as client,
            AsyncExitStack() as stack,
        ):
            subscriptions = [
                await stack.enter_async_context(client.subscribe(pattern)) for pattern in different
            ]
            hint(output, f"listening to {shown} at {endpoint.shown}")
            await printer.follow(subscriptions)
    printer.check("messages")


def _line(message: Message, output: Output) -> str:
    if output.people:
        style = output.style
        return (
            f"{style(clock(), dim=True)}  {style(message.topic, fg='cyan')}  "
            f"{payload_text(message.raw_payload)}\n"
        )
    payload = raw_json(message.raw_payload)
    entry = {
        "topic": message.topic,
        "action": message.action.value,
        "requestId": message.request_id,
        "payload": payload,
    }
    if payload is None:
        entry["text"] = message.raw_payload.decode(errors="backslashreplace")
    return json_line(entry)
