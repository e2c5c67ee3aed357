"""Measure the round-trip time of heartbeats to the broker.

When it stops, by Ctrl-C or -n, it prints how many were answered and the min/avg/max times. The exit
status is 1 if none was answered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio
import click

from mb_core import MessageBrokerClient, ResponseError

from ..connect import Endpoint, connected, endpoint_options
from ..errors import Failure, Status
from ..output import Output
from ..payloads import json_line
from ..runner import asynchronous
from ..shared_options import SECONDS, count_option, json_option, timeout_option


@click.command(help=__doc__)
@count_option("heartbeats")
@click.option(
    "--interval",
    "-i",
    type=SECONDS,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between heartbeats.",
)
@timeout_option("How long to wait for each answer.", default=5_000)
@endpoint_options
@json_option
@asynchronous(endless=lambda given: given["count"] is None)
async def command(
    endpoint: Endpoint, count: int | None, interval: float, timeout: int, as_json: bool
) -> Status | None:
    output = Output(as_json)
    figures = _Figures()
    try:
        async with connected(endpoint) as client:
            if output.people:
                await output.write(f"PING {endpoint.shown}: heartbeats, Ctrl-C to stop\n")
            next_at = anyio.current_time()
            while True:
                await _ping(client, figures, output, timeout)
                if figures.sent == count:
                    break
                next_at = max(next_at + interval, anyio.current_time())
                await anyio.sleep_until(next_at)
    except anyio.get_cancelled_exc_class():
        # Without a COUNT, Ctrl-C is the usual way to stop; without any answer, it is a failure.
        if count is None and not figures.answered:
            raise Failure("no heartbeat was answered") from None
        raise
    finally:
        if figures.sent:
            with anyio.CancelScope(shield=True):
                await output.write(
                    figures.text(endpoint.shown) if output.people else json_line(figures.as_json())
                )
    return Status.SUCCESS if figures.answered else Status.FAILED


async def _ping(
    client: MessageBrokerClient, figures: _Figures, output: Output, timeout: int
) -> None:
    figures.sent += 1
    began = time.perf_counter()
    try:
        await client.request("system.heartbeat", {}, timeout=timeout)
    except ResponseError as error:
        if output.people:
            text = output.style(str(error), fg="red")
            await output.write(f"seq={figures.sent} {text}\n")
        else:
            await output.write(json_line({"seq": figures.sent, "ms": None, "error": error.code}))
        return
    ms = (time.perf_counter() - began) * 1000
    figures.add(ms)
    if output.people:
        await output.write(f"seq={figures.sent} time={ms:.3f} ms\n")
    else:
        await output.write(json_line({"seq": figures.sent, "ms": round(ms, 3)}))


@dataclass(slots=True)
class _Figures:
    """How many heartbeats were sent and answered, and the round-trip times in milliseconds."""

    sent: int = 0
    answered: int = 0
    shortest: float = float("inf")
    longest: float = 0.0
    total: float = 0.0

    def add(self, ms: float) -> None:
        self.answered += 1
        self.shortest = min(self.shortest, ms)
        self.longest = max(self.longest, ms)
        self.total += ms

    def text(self, url: str) -> str:
        """Return two lines like those of ping(8)."""
        lost = 100 * (self.sent - self.answered) / self.sent
        text = (
            f"\n--- {url} ping statistics ---\n"
            f"{self.sent} sent, {self.answered} answered, {lost:.0f}% lost\n"
        )
        if self.answered:
            average = self.total / self.answered
            times = f"{self.shortest:.3f}/{average:.3f}/{self.longest:.3f}"
            text += f"round trip min/avg/max = {times} ms\n"
        return text

    def as_json(self) -> dict[str, object]:
        times = (self.shortest, self.total / max(1, self.answered), self.longest)
        rounded = [round(time, 3) if self.answered else None for time in times]
        counts = {"sent": self.sent, "answered": self.answered}
        return counts | dict(zip(("min", "avg", "max"), rounded, strict=True))
