"""Brokers that go away and come back on the same port: quick ones in a thread, and killed ones."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
from types import TracebackType
from typing import Any

import anyio.to_thread

from mb_broker import Broker, running

from .ports import HOST, reserved_port

__all__ = ["ProcessBroker", "ThreadBroker"]

# Milliseconds.  What goes away in a test does so at once.
_AT_ONCE = {"drain_timeout": 0, "close_timeout": 200}


class ThreadBroker:
    """A broker in a thread of this process; a context manager, that runs at its beginning.

    `stop` ends its connections in order, as far as the clients do their part.  `ssl_context` and
    `options` may be set anew for the next start.
    """

    def __init__(
        self, scheme: str = "tcp", *, ssl_context: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        self.scheme = scheme
        self.ssl_context = ssl_context
        self.options: dict[str, Any] = _AT_ONCE | options
        self._port = contextlib.ExitStack()
        self._running = contextlib.ExitStack()
        self._broker: Broker | None = None

    def __enter__(self) -> ThreadBroker:
        self.port = self._port.enter_context(reserved_port())
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._port.close()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    def start(self) -> None:
        """Run; returns when it listens."""
        self._broker = self._running.enter_context(
            running(self.url, ssl_context=self.ssl_context, **self.options)
        )

    def stop(self) -> None:
        """End; returns when nobody listens any more and its connections are closed."""
        self._running.close()

    async def restart(self, *, down: Any = None) -> None:
        """Stop and start, with the event loop going on.

        `down` is awaited in between, when nobody listens.
        """
        await anyio.to_thread.run_sync(self.stop)
        if down is not None:
            await down()
        await anyio.to_thread.run_sync(self.start)


class ProcessBroker:
    """`mb serve` in a process of its own; a context manager, that runs at its beginning.

    `arguments` are more of `mb serve`.
    """

    def __init__(self, scheme: str = "tcp", *arguments: str) -> None:
        self.scheme = scheme
        self.arguments = arguments
        self._port = contextlib.ExitStack()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ProcessBroker:
        self.port = self._port.enter_context(reserved_port())
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._port.close()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    def start(self) -> None:
        """Run; returns when it listens."""
        ports = {f"--{name}-port": "off" for name in ("tcp", "ws", "tls", "wss")}
        ports[f"--{self.scheme}-port"] = str(self.port)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mb_tools", "serve", "--host", HOST),
                *(part for option in ports.items() for part in option),
                *self.arguments,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said.startswith(self.url), f"mb serve printed {said!r} and not {self.url}"

    def kill(self) -> None:
        """Kill it (SIGKILL) as it is; returns when it is gone.  Safe to call twice."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None
