"""`mb pub`: publish one message, or each line of stdin."""

from __future__ import annotations

from typing import Any

from mb_core import MBError

from .connect import connected
from .endpoint import Endpoint
from .exits import Failure, Status, failure_of
from .stdin import json_payload, stdin_lines

__all__ = ["run", "run_lines"]


async def run(endpoint: Endpoint, topic: str, payload: Any, *, confirm: bool) -> None:
    """Publish one message."""
    async with connected(endpoint) as client:
        await client.publish(topic, payload, confirm=confirm)


async def run_lines(endpoint: Endpoint, topic: str, *, confirm: bool, text: bool) -> None:
    """Publish each line as it comes, in order; the first that can't be published ends it."""
    number = 0
    async with connected(endpoint) as client:
        async for line in stdin_lines():
            number += 1
            try:
                payload = json_payload(line, text=text)
            except ValueError as error:
                raise Failure(
                    f"line {number} of stdin {error}; --text sends texts", Status.USAGE
                ) from None
            try:
                await client.publish(topic, payload, confirm=confirm)
            except MBError as error:
                told = failure_of(error)
                raise Failure(f"line {number} of stdin: {told}", told.status) from error
