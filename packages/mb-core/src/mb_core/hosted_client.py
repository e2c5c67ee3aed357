"""The async client, for front ends that run it on an event loop of their own for other code.

mb_sync does so, for threads. A front end overrides what is different in a `Host`, and makes a
`HostedClient` with it. The names in `__all__`, and their attributes without an underscore, change
only with a minor version.
"""

from __future__ import annotations

from typing import Any

from .client.callbacks import Callbacks, Registration, unwrapped
from .client.calls import check_status
from .client.client import MessageBrokerClient
from .client.lifecycle import (
    CLOSED,
    CONNECTED_ALREADY,
    CONNECTING,
    ENTERED,
    CallbackMethods,
    Host,
)
from .client.queue import DEFAULT_QUEUE_BYTES, MessageQueue
from .client.runner import Runner
from .client.supervisor import Supervisor
from .codec import Codec
from .signals import terminable

__all__ = [
    "CLOSED",
    "CONNECTED_ALREADY",
    "CONNECTING",
    "DEFAULT_QUEUE_BYTES",
    "ENTERED",
    "CallbackMethods",
    "Callbacks",
    "Host",
    "HostedClient",
    "MessageQueue",
    "Registration",
    "Runner",
    "Supervisor",
    "check_status",
    "terminable",
    "unwrapped",
]


class HostedClient(MessageBrokerClient):
    """The async client, run by a front end.

    Args:
        host: What is different from the async client.
        *args: The positional arguments of `MessageBrokerClient`.
        **options: Its options.
    """

    def __init__(self, host: Host, *args: Any, **options: Any) -> None:
        self._host = host
        super().__init__(*args, **options)

    @property
    def callbacks(self) -> Callbacks:
        """Calls the client's `on_*` callbacks, and reports errors."""
        return self._callbacks

    @property
    def codec(self) -> Codec:
        """Reads and writes payloads."""
        return self._codec

    @property
    def gave_up(self) -> bool:
        """Whether the client was closed since the last `connect`."""
        return self._gave_up

    @gave_up.setter
    def gave_up(self, value: bool) -> None:
        self._gave_up = value

    async def wait_connecting(self) -> None:
        """Wait until a `connect` that another task has just called has begun."""
        await self._wait_connecting()

    async def shut_down(self, *, drain: bool) -> None:
        """Close the client. If a `connect` is in progress, it fails.

        Args:
            drain: Whether to wait for handlers and buffered messages, as `close` does.
        """
        await self._end(drain=drain)

    async def reset(self) -> None:
        """Undo a `connect` that failed or was interrupted, so that it can be called again."""
        await self.shut_down(drain=False)
        self._supervisor = None
