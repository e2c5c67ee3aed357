"""Publish a message to all subscribers of TOPIC.

PAYLOAD is JSON, {} by default; - reads it from stdin.
"""

from __future__ import annotations

from functools import partial

import click

from mb_core import MBError

from ..connect import Endpoint, connected, endpoint_options
from ..errors import Failure, Status, failure_of
from ..payloads import json_payload, read_payload, stdin_lines
from ..runner import run
from ..shared_options import PayloadCommand, payload_argument


@click.command(cls=PayloadCommand, help=__doc__)
@click.argument("topic")
@payload_argument
@click.option(
    "--lines", is_flag=True, help="Publish each line of stdin as a message, as it arrives."
)
@click.option(
    "--confirm",
    is_flag=True,
    help="Wait for the broker to confirm; exit with status 1 if nobody is subscribed.",
)
@endpoint_options
def command(
    endpoint: Endpoint, topic: str, payload: str | None, text: bool, lines: bool, confirm: bool
) -> Status | None:
    if lines and payload not in (None, "-"):
        raise click.UsageError("--lines reads payloads from stdin: remove PAYLOAD")
    if lines:
        return run(partial(_publish_lines, endpoint, topic, confirm=confirm, text=text))
    content = read_payload(payload, text=text)

    async def publish() -> None:
        async with connected(endpoint) as client:
            await client.publish(topic, content, confirm=confirm)

    return run(publish)


async def _publish_lines(endpoint: Endpoint, topic: str, *, confirm: bool, text: bool) -> None:
    """Publish each line as it arrives, in order; stop at the first one that fails."""
    number = 0
    async with connected(endpoint) as client:
        async for line in stdin_lines():
            number += 1
            try:
                payload = json_payload(line, text=text)
            except ValueError as error:
                raise Failure(
                    f"line {number} of stdin {error} (use --text to send strings)", Status.USAGE
                ) from None
            try:
                await client.publish(topic, payload, confirm=confirm)
            except MBError as error:
                failure = failure_of(error)
                raise Failure(
                    f"line {number} of stdin: {failure.message}", failure.status
                ) from error
