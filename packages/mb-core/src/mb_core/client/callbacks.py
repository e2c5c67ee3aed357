"""The on_* callbacks: user code, which runs in order in its own task, never in the reader."""

from __future__ import annotations

import functools
import itertools
import logging
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Any, NamedTuple

import anyio

from ..errors import RequestTimeoutError
from ..link import SLICE, Backend, Waiter
from ..message import Message, handling
from ..signals import pass_exit_on, uninterrupted
from ..throttle import Tally, Throttle
from ..user_code import call, failure, name_of, text_of

__all__ = ["Callbacks", "Handlers", "Kept", "Registration", "Run", "running", "unwrapped"]

_log = logging.getLogger("mb_core.client")

# How many calls may wait for one handler: events are rare, messages are not.
_CALLS = 1_000
_MESSAGES = 65_536

Callback = Callable[..., Any]


class Run(NamedTuple):
    """One call of an on_connect callback, which identifies what it sets up. A new call of
    `callback` sets things up again, so they replace those of its earlier calls.
    """

    callback: int
    number: int

    def follows(self, other: Run | None) -> bool:
        return other is not None and self.callback == other.callback and self.number > other.number


running: ContextVar[Run | None] = ContextVar("mb_running", default=None)
"""The call of an on_connect callback that is running; None elsewhere."""


class Registration:
    """A callback that one of a client's `on_*` methods has registered.

    Example::

        remove = client.on_error(print)
        remove()

    Call it without arguments to remove the callback. With arguments, it calls the function, so a
    function decorated with `@client.on_error` can still be called by its name.

    Attributes:
        handler: The function itself.
        removed: Whether it was removed.
    """

    __slots__ = ("_remove", "handler", "made_by", "number", "removed")

    def __init__(self, handler: Callback, remove: Callable[[Registration], object]) -> None:
        self.handler = handler
        self.number = next(_numbers)
        self.made_by = running.get()
        self.removed = False
        self._remove = remove

    def remove(self) -> None:
        """Stop calling the handler, even for events that are already waiting for it."""
        if not self.removed:
            self.removed = True
            self._remove(self)

    def __call__(self, *args: Any) -> Any:
        if args:
            return self.handler(*args)
        return self.remove()

    def __repr__(self) -> str:
        state = " (removed)" if self.removed else ""
        return f"<Registration of {name_of(self.handler)}{state}>"


_numbers = itertools.count(1)


def unwrapped(handler: Callback) -> Callback:
    """The function itself, if decorators `@client.on_*` are stacked."""
    return handler.handler if isinstance(handler, Registration) else handler


class Handlers:
    """The functions that user code has passed to a client. Only the client itself holds them; its
    tasks refer to them weakly. So a client that only its own handlers refer to (as closures and
    bound methods do) can be garbage-collected.
    """

    __slots__ = ("__weakref__", "connect", "disconnect", "error", "kept", "message", "workers")

    def __init__(self) -> None:
        self.connect: list[Registration] = []
        self.disconnect: list[Registration] = []
        self.error: list[Registration] = []
        self.message: list[Registration] = []
        self.workers: dict[Hashable, _Worker] = {}
        self.kept: set[Kept] = set()  # the handlers of subscriptions


class Kept:
    """The handler of a subscription; objects that may outlive the client refer to this weakly."""

    __slots__ = ("__weakref__", "handler")

    def __init__(self, handler: Callback) -> None:
        self.handler = handler


class Callbacks:
    """Calls a client's callbacks, and reports errors to its log.

    Each callback has a queue: it is called once at a time, in the order of events, and does not
    wait for others. If one fails, its error goes to the log and to the `on_error` handlers; that of
    an `on_error` handler only to the log.

    If a queue is full, further calls are dropped: `dropped` counts them, and the log reports them
    at most once a second. When the client is gone, so are its callbacks, and only the log is left.

    `post` calls a function in the event loop, for a front end that also uses other threads.
    """

    def __init__(
        self, handlers: Handlers, post: Callable[[Callable[[], object]], object] | None = None
    ) -> None:
        self._handlers = weakref.ref(handlers)
        self._post = post or _call
        # Calls that were posted, but are in no handler's queue yet.
        self._posted: deque[tuple[list[Registration], tuple[Any, ...]]] = deque()
        self.late_answers = 0
        self._dropped = 0  # of handlers that were removed
        self._runs = 0  # of on_connect handlers
        self._wakeup: Waiter | None = None
        self._finishing = False
        self._tally = Tally()
        self._clock = time.monotonic

    @property
    def connect(self) -> list[Registration]:
        return self._held().connect

    @property
    def disconnect(self) -> list[Registration]:
        return self._held().disconnect

    @property
    def error(self) -> list[Registration]:
        return self._held().error

    @property
    def message(self) -> list[Registration]:
        return self._held().message

    @property
    def dropped(self) -> int:
        """How many calls were dropped because their handler's queue was full."""
        return self._dropped + sum(worker.dropped for worker in self._held().workers.values())

    def keep(self, handler: Callback) -> weakref.ref[Kept]:
        """Make the client hold the handler of a subscription until it is released."""
        kept = Kept(handler)
        self._held().kept.add(kept)
        return weakref.ref(kept)

    def release(self, kept: Kept | None) -> None:
        """Release what was kept: it gets no more messages."""
        if kept is not None:
            self._held().kept.discard(kept)

    def register(
        self,
        handlers: list[Registration],
        handler: Callback,
        removed: Callable[[int], object] = lambda index: None,
    ) -> Registration:
        """Add a handler to one of the lists.

        In an on_connect callback, it replaces those that an earlier call has added. `removed` is
        called with its index in the list when it is removed.
        """
        handler = unwrapped(handler)
        registration = Registration(handler, functools.partial(self._remove, handlers, removed))
        if registration.made_by is not None:
            for other in handlers[:]:
                if registration.made_by.follows(other.made_by):
                    other.remove()
        handlers.append(registration)
        return registration

    def post(self, handlers: list[Registration], *args: Any) -> None:
        """Schedule calls of `handlers`, each after those that were posted for it before."""
        if handlers:
            self._posted.append((handlers, args))
            self._wake()

    def report(self, error: Exception, what: str, *, level: int = logging.ERROR) -> None:
        """Log an error that no caller can get, and pass it to the error handlers.

        The traceback is logged only from level ERROR on; anything below that is expected.
        """
        raised = error.__traceback__ or error.__cause__  # the latter if user code raised it
        traceback = error if raised and level >= logging.ERROR else None
        _log.log(level, "%s: %s", what, text_of(error), exc_info=traceback)
        self.post(self.error, error)

    def count(self, kind: Hashable, report: Callable[[int], object]) -> None:
        """Count something that may happen very often: `report(number so far)` is called once a
        second.

        The first time, it is called at once; the last report has the total.
        """
        self._post(functools.partial(self._count, kind, report))

    def late_answer(self, message: Message) -> None:
        """Count and report an answer to `message` that its requester no longer waits for.

        Either it was not sent, or the broker refused it.
        """
        self.late_answers += 1
        topic = message.topic

        def report(count: int) -> None:
            answers = "1 answer" if count == 1 else f"{count} answers so far"
            text = f"{answers} to {topic!r} came after the time limit of the request"
            error = RequestTimeoutError(text, details={"topic": topic, "count": count})
            self.report(error, "not answered", level=logging.WARNING)

        self.count(("late", topic.lower()), report)

    async def run(self, backend: Backend) -> None:
        """Make calls as they become due, until `finish` was called and none is left.

        Calls posted earlier wait for it. When cancelled, running calls are cancelled, and the
        others wait for the next `run`.
        """
        self._finishing = False
        self._clock = backend.time
        # The connecting code may be a handler of another message: callbacks do not belong to that
        # one.
        handling.set(None)
        await uninterrupted(lambda: self._dispatch(backend))()

    def finish(self) -> None:
        """Note that no more calls will be posted: let `run` return after the last one."""
        self._tally.report(float("inf"))
        self._finishing = True
        self._wake()

    async def run_due(self) -> None:
        """Make the calls that are due now, one handler after the other.

        Calls of a handler that is running are left to its caller.
        """
        while workers := self._with_calls():
            for worker in workers:
                if not worker.busy:
                    worker.busy = True
                    await self._work(worker)

    # Within

    def _held(self) -> Handlers:
        return self._handlers() or Handlers()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._post(self._wake_up)

    def _wake_up(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _count(self, kind: Hashable, report: Callable[[int], object]) -> None:
        self._tally.add(kind, report, self._clock())
        if self._tally.waiting:
            self._wake_up()

    async def _dispatch(self, backend: Backend) -> None:
        started: set[_Worker] = set()

        async def work(worker: _Worker) -> None:
            try:
                await self._work(worker, backend.checkpoint)
            except (KeyboardInterrupt, SystemExit, BaseExceptionGroup) as error:
                # On trio, Ctrl-C interrupts whatever runs; here it must end only one call.
                pass_exit_on(error)
            finally:
                started.discard(worker)
                self._wake()

        async with anyio.create_task_group() as tasks:
            while True:
                for worker in self._with_calls():
                    worker.busy = True
                    started.add(worker)
                    tasks.start_soon(work, worker)
                if self._finishing and not started:
                    return
                self._wakeup = backend.waiter()
                due = self._tally.next()
                if due is None:
                    await self._wakeup
                else:
                    with anyio.move_on_after(due - self._clock()):
                        await self._wakeup
                    self._tally.report(self._clock())

    def _with_calls(self) -> list[_Worker]:
        """The workers that have work and are not running."""
        while self._posted:
            handlers, args = self._posted.popleft()
            limit = _MESSAGES if handlers is self.message else _CALLS
            for registration in tuple(handlers):  # other threads may add to it
                worker = self._worker(registration.handler)
                if len(worker.calls) < limit:
                    worker.calls.append((registration, args, handlers))
                else:
                    worker.drop()
        workers = self._held().workers.values()
        return [worker for worker in workers if worker.calls and not worker.busy]

    def _remove(
        self,
        handlers: list[Registration],
        removed: Callable[[int], object],
        registration: Registration,
    ) -> None:
        index = handlers.index(registration)
        del handlers[index]
        removed(index)
        key = _key(registration.handler)
        lists = (self.connect, self.disconnect, self.error, self.message)
        if not any(_key(other.handler) == key for each in lists for other in each):
            workers = self._held().workers
            worker = workers.get(key)
            if worker is not None and not worker.busy:
                self._dropped += worker.dropped
                del workers[key]

    def _worker(self, handler: Callback) -> _Worker:
        key = _key(handler)
        workers = self._held().workers
        worker = workers.get(key)
        if worker is None:
            worker = workers[key] = _Worker(name_of(handler))
        return worker

    async def _work(
        self, worker: _Worker, checkpoint: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Make a handler's calls one by one until none is left."""
        until = time.monotonic() + SLICE
        try:
            while worker.calls:
                registration, args, handlers = worker.calls.popleft()
                if registration.removed:
                    continue
                try:
                    if handlers is self.connect:
                        self._runs += 1
                        run = Run(registration.number, self._runs)
                        await _call_in(run, registration.handler, *args)
                    else:
                        await call(registration.handler, *args)
                except BaseException as raised:
                    error = failure(raised)
                    if handlers is self.error:
                        _log.error("the error handler %s failed", worker.name, exc_info=error)
                    else:
                        self.report(error, f"the callback {worker.name} failed")
                if checkpoint is not None and time.monotonic() > until:
                    await checkpoint()
                    until = time.monotonic() + SLICE
        finally:
            worker.busy = False
            worker.report_dropped()


async def _call_in(run: Run, handler: Callback, *args: Any) -> None:
    token = running.set(run)
    try:
        await call(handler, *args)
    finally:
        running.reset(token)


def _key(handler: Callback) -> Hashable:
    """Return a key that identifies a handler. If it is hashable, the key is not its identity: each
    access to a bound method creates a new object.
    """
    try:
        hash(handler)
    except TypeError:
        return id(handler)
    return handler


def _call(function: Callable[[], object]) -> object:
    return function()


class _Worker:
    """The calls of one handler, or of several equal ones."""

    __slots__ = ("_reported", "_throttle", "busy", "calls", "dropped", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        # Each call with the list that contains its handler.
        self.calls: deque[tuple[Registration, tuple[Any, ...], list[Registration]]] = deque()
        self.busy = False
        self.dropped = 0
        self._reported = 0
        self._throttle = Throttle()

    def drop(self) -> None:
        """Count a dropped call."""
        self.dropped += 1
        if self._throttle.allow():
            self.report_dropped()

    def report_dropped(self) -> None:
        """Log how many were dropped."""
        if self._reported != self.dropped:
            self._reported = self.dropped
            _log.error(
                "the callback %s is too slow: %d calls of it dropped so far",
                self.name,
                self.dropped,
            )
