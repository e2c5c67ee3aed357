"""Connecting and closing a blocking client, from any number of threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import Future
from weakref import WeakMethod

from mb_core.errors import ConnectionLost, LocalProtocolError
from mb_core.hosted_client import CLOSED, CONNECTED_ALREADY, CONNECTING, HostedClient, Supervisor

from .loop_thread import LoopThread, loop_for
from .publish_queue import PublishQueue
from .thread_host import ThreadHost
from .thread_waiter import ThreadWaiter

__all__ = ["ThreadLifecycle"]


class ThreadLifecycle:
    """The state of a blocking client between its first connect and its end.

    `loop` is None until it connects.  `supervisor` and `publish_queue` come a moment later.
    """

    publish_queue: PublishQueue

    def __init__(self, client: HostedClient, host: ThreadHost) -> None:
        self.loop: LoopThread | None = None
        self.supervisor: Supervisor | None = None
        self._client = client
        self._host = host
        host.on_connecting = WeakMethod(self._connecting)
        # Held from the beginning of a connect, unless that fails.
        self._connect_lock = threading.Lock()
        # The task that undoes an interrupted connect, and where it runs.
        self._undoing: tuple[LoopThread, Future[None]] | None = None
        # Threads that wait for a call of connect.
        self._waiting: deque[ThreadWaiter] = deque()

    def check(self) -> None:
        """Raise LocalProtocolError if the caller can't wait for the loop."""
        if self.loop is not None:
            self.loop.check()

    def running(self) -> tuple[Supervisor, LoopThread]:
        """Return what calls need; waits for a connect that has just been called.

        Raises LocalProtocolError before that, and if the caller can't wait for the loop.
        """
        self.check()
        loop, supervisor = self.loop, self.supervisor
        if self._is_undoing:
            loop = None
        elif loop is not None and supervisor is None:
            loop.call(self._client.wait_connecting)
            supervisor = self.supervisor
        if loop is None or supervisor is None:
            raise LocalProtocolError("not connected: client.connect(...) first")
        return supervisor, loop

    @property
    def connected(self) -> bool:
        return self.loop is not None and not self.loop.forked and self._client.connected

    @property
    def closing(self) -> bool:
        """Whether it was closed. Undoing a connect does not count: it may connect again."""
        supervisor = self.supervisor
        return supervisor is not None and supervisor.closing and not self._is_undoing

    def connect(self, host: str | None, port: int | None, use_tls: bool) -> None:
        self.check()
        if self._undoing is not None:
            before, undone = self._undoing
            before.wait_for(undone)  # it takes a moment
        if not self._connect_lock.acquire(blocking=False):
            again = CONNECTED_ALREADY if self._host.connected else CONNECTING
            raise LocalProtocolError(CLOSED if self.closing else again)
        self._client.gave_up = False
        try:
            loop = self.loop = self._host.loop = loop_for(self._host)
        except BaseException:
            self._connect_lock.release()
            raise
        self._wake_waiting()
        try:
            loop.call(self._connect, host, port, use_tls)
        except BaseException as error:
            undoing = loop.submit(self._undo_connect, loop)
            self._undoing = (loop, undoing) if undoing is not None else None
            if isinstance(error, Exception) and undoing is not None:
                loop.wait_for(undoing)
                loop.join()
            raise

    def ensure_connected(self) -> None:
        """Connect, unless that was done, or wait while another thread does."""
        if self._is_undoing or not self._connect_lock.locked():
            self.connect(None, None, False)
        elif not self._host.connected:
            self.wait_connected(None)

    def wait_connected(self, timeout: int | None) -> None:
        self.check()
        while (loop := self.loop) is None:
            if self._client.gave_up:
                raise ConnectionLost("not connected: the client was closed", sent=False)
            began = time.monotonic()
            self._wait_for_connect(timeout)
            if timeout is not None:
                timeout = max(1, timeout - int((time.monotonic() - began) * 1000))
        loop.call(self._client.wait_connected, timeout)

    def close(self, *, drain: bool) -> None:
        loop = self.loop
        if loop is None:
            self._client.gave_up = True
            self._wake_waiting()
            return
        if loop.forked:
            return  # connections of the parent process are not ours to close
        loop.check()
        supervisor = self.supervisor
        called_by_handler = loop.pool.includes(threading.current_thread())
        if supervisor is not None and supervisor.in_handler and called_by_handler:
            self._host.close(
                drain=True
            )  # it waits for this handler, which therefore can't wait for it
            return
        future = self._host.close(drain=drain)
        if future is not None:
            try:
                loop.wait_for(future)
            except BaseException:
                # Interrupted: it continues in the background, and no longer waits for handlers.
                self._host.close(drain=False)
                raise
        loop.join()

    @property
    def _is_undoing(self) -> bool:
        """Return whether an interrupted connect still has to be undone."""
        return self._undoing is not None and not self._undoing[1].done()

    def _wait_for_connect(self, timeout: int | None) -> None:
        """Wait until `connect` or `close` is called; raises TimeoutError."""
        waiter = ThreadWaiter()
        self._waiting.append(waiter)
        # Calls before the waiter was added have not woken it.
        if self.loop is not None or self._client.gave_up:
            self._wake_waiting()
        try:
            if not waiter.wait(timeout / 1000 if timeout is not None else None):
                raise TimeoutError(f"no connection within {timeout} ms: connect() was not called")
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)

    def _wake_waiting(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._waiting.popleft().set_result(None)

    # In the loop

    async def _connect(self, host: str | None, port: int | None, use_tls: bool) -> None:
        await self._client.connect(host, port, use_tls)
        self._host.connected = True

    def _connecting(self, supervisor: Supervisor) -> None:
        """Note that the first connection is about to be opened: from now on, calls may wait for
        it."""
        assert self.loop is not None
        self.publish_queue = PublishQueue(supervisor, self._client.callbacks, self.loop)
        self.supervisor = supervisor

    async def _undo_connect(self, loop: LoopThread) -> None:
        try:
            await self._client.reset()
        finally:
            self.loop = self.supervisor = None
            self._host.reset()
            loop.release(self._host)
            self._connect_lock.release()
