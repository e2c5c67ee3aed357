"""The async client, for front ends that run it on an event loop of their own and serve others.

mb_sync does, for threads.  A front end overrides what differs in a Host, and makes a HostedClient
with it.  The names in `__all__`, and their attributes without an underscore, change only with a
minor version.
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
from .client.signals import terminable
from .client.supervisor import Supervisor
from .codec import Codec

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
    """The async client as a front end runs it.

    `host` says what is different from the async client; the other arguments are that client's.
    """

    def __init__(self, host: Host, *args: Any, **options: Any) -> None:
        self._host = host
        super().__init__(*args, **options)

    @property
    def callbacks(self) -> Callbacks:
        """Calls the handlers of events, and reports errors."""
        return self._callbacks

    @property
    def codec(self) -> Codec:
        return self._codec

    @property
    def gave_up(self) -> bool:
        """Whether it was closed since the last connect."""
        return self._gave_up

    @gave_up.setter
    def gave_up(self, value: bool) -> None:
        self._gave_up = value

    async def wait_connecting(self) -> None:
        """Wait until a connect that has just been called elsewhere has begun."""
        await self._wait_connecting()

    async def shut_down(self, *, drain: bool) -> None:
        """Close, with or without waiting for handlers; a connect that is under way fails."""
        await self._end(drain=drain)

    async def reset(self) -> None:
        """Undo a connect that has failed or was interrupted: it may be called again."""
        await self.shut_down(drain=False)
        self._supervisor = None
