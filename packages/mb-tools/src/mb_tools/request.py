"""`mb request`: ask, and print the answer."""

from __future__ import annotations

from typing import Any

import msgspec

from .connect import connected
from .endpoint import Endpoint
from .exits import one_line
from .output import Output, raw_json

__all__ = ["run"]


async def run(endpoint: Endpoint, topic: str, payload: Any, *, timeout: int, as_json: bool) -> None:
    """Print the answer's payload; the errors are those of MessageBrokerClient.request."""
    output = Output(as_json)
    async with connected(endpoint) as client:
        answer = await client.request(topic, payload, timeout=timeout)
    await output.write(_shown(answer.raw_payload, output.people) + "\n")


def _shown(payload: bytes, people: bool) -> str:
    line = raw_json(payload)
    if line is None:
        return one_line(payload.decode(errors="backslashreplace"))
    if not people:
        return bytes(line).decode()
    try:
        text = msgspec.json.format(bytes(line), indent=2).decode()
    except msgspec.DecodeError:  # it has half of a surrogate pair
        text = bytes(line).decode()
    return "\n".join(one_line(line) for line in text.split("\n"))
