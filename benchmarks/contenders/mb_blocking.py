"""The blocking client over TCP, with the service in a process of its own."""

from __future__ import annotations

from mb_sync import MessageBrokerClient

from .. import blocking, processes, service
from ..cases import Figures

__all__ = ["measure"]


def measure(messages: int) -> Figures:
    with (
        processes.mb_broker("tcp") as url,
        service.running(url),
        MessageBrokerClient(url) as sender,
        MessageBrokerClient(url) as receiver,
    ):
        return blocking.measure(sender, receiver, messages)
