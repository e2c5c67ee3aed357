"""Send a request to TOPIC and print the payload of the answer.

PAYLOAD is JSON, {} by default; - reads it from stdin.
If the answer is an error, it is printed to stderr as CODE: message, and the exit status is 1.
"""

from __future__ import annotations

import click
import msgspec

from ..connect import Endpoint, connected, endpoint_options
from ..errors import Status
from ..output import Output
from ..payloads import payload_text, raw_json, read_payload
from ..runner import run
from ..shared_options import PayloadCommand, json_option, payload_argument, timeout_option
from ..text import one_line


@click.command(cls=PayloadCommand, help=__doc__)
@click.argument("topic")
@payload_argument
@timeout_option("Time limit for the answer.", default=30_000)
@endpoint_options
@json_option
def command(
    endpoint: Endpoint, topic: str, payload: str | None, text: bool, timeout: int, as_json: bool
) -> Status | None:
    content = read_payload(payload, text=text)

    async def request() -> None:
        output = Output(as_json)
        async with connected(endpoint) as client:
            answer = await client.request(topic, content, timeout=timeout)
        await output.write(_shown(answer.raw_payload, output.people) + "\n")

    return run(request)


def _shown(payload: bytes, people: bool) -> str:
    line = raw_json(payload)
    if line is None:
        return payload_text(payload)
    if not people:
        return bytes(line).decode()
    try:
        text = msgspec.json.format(bytes(line), indent=2).decode()
    except msgspec.DecodeError:  # it has a lone surrogate
        return payload_text(payload)
    return "\n".join(one_line(line) for line in text.split("\n"))
