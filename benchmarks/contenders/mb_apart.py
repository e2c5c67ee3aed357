"""MB over TCP with the service in a process of its own: the measure of the blocking client."""

from __future__ import annotations

from .. import cases, processes, service
from .mb import connected

__all__ = ["measure"]


def measure(messages: int) -> cases.Figures:
    with processes.mb_broker("tcp") as url, service.running(url):
        return cases.run(lambda: connected(url, serves=False), messages)
