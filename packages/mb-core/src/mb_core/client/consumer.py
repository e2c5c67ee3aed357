"""The contract between who receives a subscription's messages and who consumes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..errors import MBError
from ..message import Message
from ..session import Subscribed

__all__ = ["Consumer", "EndError"]

EndError = Callable[[], MBError]
"""Makes the error with which something ended: each who gets it gets one of his own."""


class Consumer(Protocol):
    """What a subscription's messages are given to, from the reader: it only queues them."""

    def deliver(self, messages: list[Message]) -> None:
        """Take messages in order; no other consumer has the same objects."""
        ...

    def release(self, entry: Subscribed, error: EndError | None = None) -> None:
        """Nothing more will come for `entry`, because of `error` or in order."""
        ...

    def end(self, error: EndError | None) -> None:
        """Nothing more will come at all."""
        ...
