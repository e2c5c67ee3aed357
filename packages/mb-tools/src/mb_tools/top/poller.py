"""Keeps a Model up to date: polls the broker once a second, and follows its audit feed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import anyio

from mb_client import (
    ConnectError,
    ConnectionLost,
    MBError,
    Message,
    MessageBrokerClient,
    PluginError,
    ResponseError,
    Subscription,
)

from ..connect import Endpoint
from .model import FEED, POLLED, Audit, Model

__all__ = ["Poller"]

# The largest share of its time that the broker spends on answering us, and the longest interval
# between two polls.
_SHARE = 0.1
_LONGEST_INTERVAL = 5.0

# Seconds to wait for an answer; milliseconds until a silent connection is checked, and then lost.
_ANSWER_LIMIT = 2.0
_HEARTBEAT_INTERVAL = 3_000

# The feed should show our own polls: after this many polls without an event, it is silent.
_SILENT_POLLS = 2

# The most audit messages that wait.
_QUEUE = 10_000

# These errors are permanent while the broker runs, so the topic is not requested again.
_FINAL = frozenset({"TOPIC_NOT_SUPPORTED", "INVALID_REQUEST", "FORBIDDEN", "UNAUTHORIZED"})


class Poller:
    """Polls the broker at `endpoint` for `model`, with `client`, which the caller connects.

    `audit` is whether to subscribe to the audit feed; `interval` is the seconds between two polls,
    longer if the broker answers slowly.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: Model,
        *,
        audit: bool = True,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = endpoint.shown
        self.client = MessageBrokerClient(
            endpoint.url,
            ssl_context=endpoint.ssl_context,
            token=endpoint.token,
            connect_timeout=5_000,
            close_timeout=1_000,
            backoff_min=500,
            backoff_max=5_000,
            heartbeat_interval=_HEARTBEAT_INTERVAL,
        )
        self.client.on_connect(self._connected)
        self.client.on_disconnect(self._disconnected)
        self.client.on_error(self._failed)
        self._model = model
        self._audit = audit
        self._interval = interval
        self._clock = clock
        self._subscription: Subscription | None = None
        self._skipped_before = self._heard_before = self._silent_polls = 0
        self._final: set[str] = set()
        self._wake = anyio.Event()
        self.on_change: Callable[[], object] = lambda: None
        """Called when the screen should be updated at once."""

    @property
    def audit(self) -> bool:
        """Whether the audit feed is wanted; setting it takes effect at once."""
        return self._audit

    @audit.setter
    def audit(self, wanted: bool) -> None:
        self._audit = wanted
        self._final.discard(FEED)
        self._wake.set()

    async def run(self) -> None:
        """Poll until the client is closed or this is cancelled."""
        # Some brokers restrict registration, and mb top works without it.
        with contextlib.suppress(ResponseError, ConnectionLost):
            await self.client.register_service("mb top", "Shows what this broker does")
        shown: Audit | None = None
        with contextlib.suppress(ConnectionLost):
            while True:
                await self.client.wait_connected()
                self._wake = anyio.Event()
                began = self._clock()
                try:
                    await self._switch_audit()
                    await self._poll()
                except ConnectionLost:
                    continue
                if self._model.audit is not shown:
                    shown = self._model.audit
                    self.on_change()
                took = self._clock() - began
                pause = max(self._interval - took, min(took / _SHARE, _LONGEST_INTERVAL))
                with anyio.move_on_after(pause):
                    await self._wake.wait()

    async def _poll(self) -> None:
        """Request everything once; raises ConnectionLost."""
        for topic in POLLED:
            if topic in self._final:
                continue
            try:
                with anyio.fail_after(_ANSWER_LIMIT):
                    answer = await self.client.request(topic, {})
                self._model.take(topic, answer.payload, self._clock())
            except TimeoutError:
                if self.client.connected:
                    self._model.refused(topic, f"no answer within {_ANSWER_LIMIT:g} s")
            except ResponseError as error:
                self._refused(topic, error)
            except ConnectionLost:
                raise
            except MBError as error:
                self._model.refused(topic, str(error))
        if self._subscription is not None:
            self._model.skipped = self._skipped_before + self._subscription.dropped
            if self._model.heard == self._heard_before and self._model.audit is Audit.ON:
                self._silent_polls += 1
                if self._silent_polls == _SILENT_POLLS:
                    self._model.refused(FEED, "is silent")

    async def _switch_audit(self) -> None:
        """Subscribe to the audit feed or unsubscribe, as wanted; raises ConnectionLost."""
        if self._audit and self._subscription is None and FEED not in self._final:
            subscription = self.client.subscribe(
                FEED, handler=self._take_event, queue_size=_QUEUE, overflow="drop_oldest"
            )
            try:
                self._subscription = await subscription
            except ResponseError as error:
                self._refused(FEED, error)
            else:
                self._skipped_before = self._model.skipped
                self._expect_events()
                self._model.set_audit(Audit.ON)
        elif not self._audit:
            ended, self._subscription = self._subscription, None
            self._model.set_audit(Audit.OFF)
            if ended is not None:
                await ended.unsubscribe()

    def _take_event(self, message: Message) -> None:
        self._model.take_event(message.raw_payload, self._clock())

    def _expect_events(self) -> None:
        self._heard_before, self._silent_polls = self._model.heard, 0

    def _refused(self, topic: str, error: ResponseError) -> None:
        if error.code in _FINAL:
            self._final.add(topic)
            if topic in POLLED:
                self._model.take(topic, {}, self._clock())  # it will not be updated any more
        self._model.refused(topic, error.code)

    # Callbacks of the client

    def _connected(self) -> None:
        self._final.clear()
        self._expect_events()
        self._model.up()
        self.on_change()

    def _disconnected(self) -> None:
        self._model.down("the connection is lost")
        self.on_change()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ConnectError | PluginError):
            self._model.down(str(error))
            self.on_change()
        elif isinstance(error, ResponseError):  # the new broker did not restore the feed
            if error.code in _FINAL:
                self._subscription = None
            self._refused(FEED, error)
