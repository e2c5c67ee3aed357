"""`mb ping`: how long a heartbeat takes to the broker and back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import anyio

from mb_core import MessageBrokerClient, ResponseError

from .connect import connected
from .endpoint import Endpoint
from .exits import Failure, Status
from .output import Output, json_line

__all__ = ["Figures", "run"]


@dataclass(slots=True)
class Figures:
    """How many heartbeats were sent, and of the answers how long they took, in seconds."""

    sent: int = 0
    answered: int = 0
    shortest: float = field(default=float("inf"))
    longest: float = 0.0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """One was answered."""
        self.answered += 1
        self.shortest = min(self.shortest, seconds)
        self.longest = max(self.longest, seconds)
        self.total += seconds

    def text(self, url: str) -> str:
        """Two lines, as ping(8) has them."""
        lost = 100 * (self.sent - self.answered) / self.sent if self.sent else 0
        text = (
            f"\n--- {url} ping statistics ---\n"
            f"{self.sent} sent, {self.answered} answered, {lost:.0f}% lost\n"
        )
        if self.answered:
            times = (self.shortest, self.total / self.answered, self.longest)
            text += f"round trip min/avg/max = {'/'.join(f'{t * 1000:.3f}' for t in times)} ms\n"
        return text

    def as_json(self) -> dict[str, object]:
        """The same as values, in milliseconds."""
        some = self.answered > 0
        return {
            "sent": self.sent,
            "answered": self.answered,
            "min": _ms(self.shortest) if some else None,
            "avg": _ms(self.total / self.answered) if some else None,
            "max": _ms(self.longest) if some else None,
        }


async def run(
    endpoint: Endpoint, *, count: int | None, interval: float, timeout: int, as_json: bool
) -> Status | None:
    """Ping until `count` heartbeats were sent, or until interrupted; always print the figures.

    Raises Failure if it is interrupted without a `count` before any answer.
    """
    output = Output(as_json)
    figures = Figures()
    try:
        async with connected(endpoint) as client:
            if output.people:
                await output.write(f"PING {endpoint.shown}: heartbeats, Ctrl-C ends it\n")
            next_at = anyio.current_time()
            while True:
                await _ping(client, figures, output, timeout)
                if figures.sent == count:
                    break
                next_at = max(next_at + interval, anyio.current_time())
                await anyio.sleep_until(next_at)
    except anyio.get_cancelled_exc_class():
        # Ctrl-C is the usual end without a COUNT, and no answer is still a failure.
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
    client: MessageBrokerClient, figures: Figures, output: Output, timeout: int
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
    seconds = time.perf_counter() - began
    figures.add(seconds)
    if output.people:
        await output.write(f"seq={figures.sent} time={_ms(seconds):.3f} ms\n")
    else:
        await output.write(json_line({"seq": figures.sent, "ms": _ms(seconds)}))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
