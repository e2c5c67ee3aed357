"""A broker in a thread of its own, for programs and tests without an event loop to run it on."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import threading
import warnings
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mb_core.errors import LocalProtocolError
from mb_core.link import forked_error
from mb_core.options import check_options
from mb_core.plugins import installed_plugins
from mb_core.transport import WireTransport
from mb_core.url import URL, parse_url

from .broker import Broker, url_of
from .ports import reserved_port

__all__ = ["RunningBroker", "running"]


def running(*urls: str, **options: Any) -> RunningBroker:
    """Run a Broker in a thread for the duration of a `with` block.

    Example::

        with mb_broker.running("tcp://127.0.0.1:0") as broker:
            print(broker.url)

    It takes the arguments of `Broker`, and entering it raises the same errors.
    """
    faults = options.pop("faults", None)
    if faults is None:
        return RunningBroker(*urls, **options)
    text = "mb_broker.running(faults=faults) is deprecated: use mb_testing.running(faults=faults)"
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    # Imported by name, because mb_broker doesn't depend on mb_testing, where faults come from.
    try:
        testing = importlib.import_module("mb_testing")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mb_testing":
            raise  # it is installed, but one of its dependencies is missing
        text = "mb_broker.running(faults=faults) is now mb_testing.running: pip install mb-testing"
        raise ImportError(text) from error
    broker: RunningBroker = testing.running(*urls, faults=faults, **options)
    return broker


class RunningBroker:
    """A Broker in a thread, from `running`.

    It can be stopped and started again at the same URLs: a port that was chosen automatically stays
    reserved in between. All methods can be called from any thread, and return when they have taken
    effect. `kill`, `start` and `restart` take only a few milliseconds, so async code may call them.

    In a forked process, the broker is not running and can't be started.

    Attributes:
        urls: The URLs on which the broker listens, with the real ports.
    """

    def __init__(self, *urls: str, **options: Any) -> None:
        check_options(plugins=options.get("plugins"))
        self.urls: list[str] = list(urls) or ["memory://"]
        self._options = options
        self._reserved = contextlib.ExitStack()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._broker: Broker
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Future[bool]  # whether to kill it

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as reserved:
            self.urls = [_with_reserved_port(url, self._options, reserved) for url in self.urls]
            self.start()
            self._reserved = reserved.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._reserved:
            self.stop()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name == "faults":
                text = "this broker can't inject faults: use mb_testing.running"
            raise AttributeError(text, name=name, obj=self)

    @property
    def url(self) -> str:
        """The first of `urls`."""
        return self.urls[0]

    def url_of(self, scheme: str) -> str:
        """Return the first URL of this scheme, such as `broker.url_of("tcp")`.

        Raises:
            LookupError: The broker does not listen on such a URL.
        """
        return url_of(self.urls, scheme)

    @property
    def connections(self) -> int:
        """How many clients are connected; 0 while the broker is not running."""
        return self._broker.connections if self._thread is not None and self._is_ours else 0

    def start(self, **options: Any) -> None:
        """Start the broker again, after `stop` or `kill`.

        Args:
            **options: Options that replace the previous ones from now on.

        Raises:
            LocalProtocolError: The broker is running, or an option is invalid.
            ConnectError: The broker can't listen on a URL.
            PluginError: No plugin supports a URL's scheme.
        """
        if not self._is_ours:
            raise forked_error("broker")
        if self._thread is not None:
            raise LocalProtocolError(
                "the broker is already running: call stop() or kill() before start()"
            )
        options = self._options | options
        broker = Broker(*self.urls, **options)
        started: Future[None] = Future()
        thread = threading.Thread(
            target=self._run, args=(broker, started), name="mb broker", daemon=True
        )
        thread.start()
        started.result()
        self._broker, self._thread = broker, thread
        self._options, self.urls = options, broker.urls

    def stop(self) -> None:
        """Stop the broker, as SIGTERM stops `mb serve`. Does nothing if it is not running.

        Waits for answers to pending requests and for clients to close, as long as the broker's time
        limits allow. Clients on the caller's event loop can't close meanwhile, so in async code,
        use `await anyio.to_thread.run_sync(broker.stop)`.
        """
        self._finish(kill=False)

    def kill(self) -> None:
        """Stop the broker at once, as a crash would. Does nothing if it is not running."""
        self._finish(kill=True)

    def restart(self, **options: Any) -> None:
        """Call `kill`, then `start`."""
        self.kill()
        self.start(**options)

    def reload_access(self) -> None:
        """Read the access file again; see `Broker.reload_access`.

        Raises:
            LocalProtocolError: The file is invalid; or the broker was created without one, or is
                not running. Nothing has changed.
        """
        if self._thread is None or not self._is_ours:
            raise LocalProtocolError("the broker is not running: call start()")
        reloaded: Future[None] = Future()

        def reload() -> None:
            try:
                self._broker.reload_access()
            except BaseException as error:
                reloaded.set_exception(error)
            else:
                reloaded.set_result(None)

        self._loop.call_soon_threadsafe(reload)
        reloaded.result()

    @property
    def _is_ours(self) -> bool:
        return self._process == os.getpid()

    def _finish(self, *, kill: bool) -> None:
        thread, self._thread = self._thread, None
        if thread is None or not self._is_ours:
            return

        def end() -> None:
            if not self._end.done():
                self._end.set_result(kill)

        with contextlib.suppress(RuntimeError):  # the loop has failed; its thread has reported how
            self._loop.call_soon_threadsafe(end)
        thread.join()

    def _run(self, broker: Broker, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(broker, started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, broker: Broker, started: Future[None]) -> None:
        async with broker:
            self._loop = asyncio.get_running_loop()
            self._end = self._loop.create_future()
            started.set_result(None)
            if await self._end:
                await broker.abort()


def _with_reserved_port(url: str, options: dict[str, Any], reserved: contextlib.ExitStack) -> str:
    """Return `url` with a reserved port instead of port 0, if it has one."""
    parsed = parse_url(url)
    if parsed.port != 0:
        return url
    plugins = options.get("plugins") or installed_plugins()
    transport = plugins.transport(parsed.scheme)
    if not isinstance(transport, WireTransport) or transport.sockets is not None:
        return url
    try:
        port = reserved.enter_context(reserved_port(parsed.host))
    except OSError:
        return url  # listening there will fail with a reason
    return URL(parsed.scheme, parsed.host, port, parsed.path).full
