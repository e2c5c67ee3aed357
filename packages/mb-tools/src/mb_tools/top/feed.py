"""Talks to the broker for the Model: asks once a second, listens, and connects again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import anyio

from mb_client import (
    ConnectionLost,
    MBError,
    Message,
    MessageBrokerClient,
    ResponseError,
    Subscription,
)

from ..endpoint import Endpoint
from .model import FEED, POLLED, Model
from .view import Audit

__all__ = ["Feed"]

# The share of the time that goes into answering us, at most; and the seconds between two polls
# that are the most, come what may.
_SHARE = 0.1
_LONGEST_INTERVAL = 5.0

# Seconds between two attempts to connect: each twice as long as the one before.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0

# Seconds to wait for an answer; milliseconds to wait for a connection, and for its end.
_ANSWER_LIMIT = 2.0
_CONNECT_LIMIT = 5_000
_CLOSE_LIMIT = 1_000
# So many polls without any answer, and the connection is given up.
_PATIENCE = 3

# So many polls without a message of the audit feed, which should show those very polls.
_SILENCE = 2

# Messages of the audit feed that wait to be looked at.
_QUEUE = 10_000

# These do not change as long as the broker runs: what was refused so is not asked for again.
_FINAL = frozenset({"TOPIC_NOT_SUPPORTED", "INVALID_REQUEST", "FORBIDDEN", "UNAUTHORIZED"})


class Feed:
    """Keeps `model` up to date from the broker at `endpoint`, over one connection at a time.

    `audit` is whether to subscribe to the audit feed; `interval` the seconds between two polls,
    which are more where the broker takes its time to answer.  Await `connect` for a first
    connection whose failure is the caller's matter, then `run` until it is cancelled.
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
        self._endpoint = endpoint
        self._model = model
        self._wanted = audit
        self._interval = interval
        self._clock = clock
        self._client: MessageBrokerClient | None = None
        self._subscription: Subscription | None = None
        self._skipped_before = self._heard_before = self._silent_polls = 0
        self._final: set[str] = set()
        self._wake = anyio.Event()
        self.on_change: Callable[[], None] = _ignore
        """Called where the screen should not wait for its next second."""

    @property
    def audit(self) -> bool:
        """Whether the audit feed is wanted; setting it takes effect at once."""
        return self._wanted

    @audit.setter
    def audit(self, wanted: bool) -> None:
        self._wanted = wanted
        self._final.discard(FEED)
        self._wake.set()

    async def connect(self) -> None:
        """Connect; raises ConnectError, PluginError, or what else the broker makes of it.

        When it fails or is cancelled, nothing is left behind.
        """
        client = MessageBrokerClient(
            self._endpoint.url,
            ssl_context=self._endpoint.ssl_context(),
            connect_timeout=_CONNECT_LIMIT,
            close_timeout=_CLOSE_LIMIT,
            reconnect=False,  # `run` does that, and tells what it does
        )
        client.on_disconnect(lambda: self._wake.set())
        try:
            await client.connect()
            # Some brokers restrict registration, and mb top works without it.
            with contextlib.suppress(ResponseError):
                await client.register_service("mb top", "Shows what this broker does")
        except BaseException:
            with anyio.CancelScope(shield=True):
                await client.close()
            raise
        self._client = client
        self._subscription = None
        self._final.clear()
        self._model.up()

    async def run(self) -> None:
        """Follow the broker, and connect again whenever the connection is lost; never returns.

        When cancelled, the connection is closed.
        """
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    if self._client is None:
                        await self.connect()
                    pause = _FIRST_PAUSE
                    await self._follow()
                except MBError as error:
                    # What was not sent is our poll, of which nobody knows.
                    unsent = isinstance(error, ConnectionLost) and not error.sent
                    self._model.down("the connection is lost" if unsent else str(error))
                self.on_change()
                await self.close()
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            with anyio.CancelScope(shield=True):
                await self.close()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # Within

    async def _follow(self) -> None:
        """Poll until the connection is lost; raises ConnectionLost."""
        unanswered = 0
        shown: Audit | None = None
        while True:
            self._wake = anyio.Event()
            began = self._clock()
            await self._switch_audit()
            alive = await self._poll()
            if alive:
                unanswered = 0
                self._look_after_audit()
            else:
                unanswered += 1
                if unanswered == _PATIENCE:
                    raise ConnectionLost("the broker does not answer any more", sent=True)
            if self._model.audit is not shown:
                shown = self._model.audit
                self.on_change()
            took = self._clock() - began if alive else 0.0
            pause = max(self._interval - took, min(took / _SHARE, _LONGEST_INTERVAL))
            with anyio.move_on_after(pause):
                await self._wake.wait()

    async def _poll(self) -> bool:
        """Ask for everything once; False where there was no answer at all."""
        client = self._connected()
        alive = False
        for topic in POLLED:
            if topic in self._final:
                alive = True
                continue
            try:
                with anyio.fail_after(_ANSWER_LIMIT):
                    answer = await client.request(topic, {})
                self._model.take(topic, answer.payload, self._clock())
                alive = True
            except TimeoutError:
                self._model.refused(topic, f"no answer within {_ANSWER_LIMIT:g} s")
                if not alive:
                    return False
            except ResponseError as error:
                self._refused(topic, error)
                alive = True
            except MBError as error:
                if isinstance(error, ConnectionLost):
                    raise
                self._model.refused(topic, str(error))
        return alive

    async def _switch_audit(self) -> None:
        """Subscribe to the audit feed or unsubscribe, as wanted."""
        if self._wanted and self._subscription is None and FEED not in self._final:
            subscription = self._connected().subscribe(
                FEED, handler=self._hear, queue_size=_QUEUE, overflow="drop_oldest"
            )
            try:
                self._subscription = await subscription
            except ResponseError as error:
                self._refused(FEED, error)
            else:
                self._skipped_before, self._heard_before = self._model.skipped, self._model.heard
                self._silent_polls = 0
                self._model.set_audit(Audit.ON)
        elif not self._wanted:
            ended, self._subscription = self._subscription, None
            self._model.set_audit(Audit.OFF)
            if ended is not None:
                await ended.unsubscribe()

    def _hear(self, message: Message) -> None:
        self._model.take_event(message.raw_payload, self._clock())

    def _look_after_audit(self) -> None:
        if self._subscription is None:
            return
        self._model.skipped = self._skipped_before + self._subscription.dropped
        if self._model.heard == self._heard_before and self._model.audit is Audit.ON:
            self._silent_polls += 1
            if self._silent_polls == _SILENCE:
                self._model.refused(FEED, "is silent")

    def _refused(self, topic: str, error: ResponseError) -> None:
        if error.code in _FINAL:
            self._final.add(topic)
        self._model.refused(topic, error.code)

    def _connected(self) -> MessageBrokerClient:
        assert self._client is not None
        return self._client


def _ignore() -> None:
    """Nobody looks."""
