"""Brokers that go away and come back on the same port: quick ones in a thread, and killed ones."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import anyio.to_thread

from mb_broker import RunningBroker, running
from mb_broker.ports import HOST, reserved_port

__all__ = ["ProcessBroker", "restart_in_order", "thread_broker"]

# Milliseconds.  What goes away in a test does so at once.
_AT_ONCE = {"drain_timeout": 0, "close_timeout": 200}


def thread_broker(scheme: str = "tcp", **options: Any) -> AbstractContextManager[RunningBroker]:
    """A broker in a thread of this process, while a block lasts; what it ends, it ends at once."""
    return running(f"{scheme}://{HOST}:0", **_AT_ONCE | options)


async def restart_in_order(broker: RunningBroker, *, down: Any = None) -> None:
    """Stop it as far as the clients do their part, and start it, with the event loop going on.

    `down` is awaited in between, when nobody listens.
    """
    await anyio.to_thread.run_sync(broker.stop)
    if down is not None:
        await down()
    await anyio.to_thread.run_sync(broker.start)


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

    def suspend(self) -> None:
        """Stop it as a machine that sleeps does (SIGSTOP), until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it (SIGKILL) as it is; returns when it is gone.  Safe to call twice."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None
