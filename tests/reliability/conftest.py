"""What the tests of reliability share: certificates, and proof that nothing remains."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

if TYPE_CHECKING:
    import trustme


@pytest.fixture
async def nothing_remains(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """The test ends with the tasks, timers and sockets with which it began.

    Exceptions that nobody retrieved are raised by anyio's test runner, warnings are errors; what
    asyncio only logs, and what the client logs of itself, is looked for here.
    """
    tasks, sockets = _tasks(anyio_backend_name), _sockets()
    yield
    gc.collect()
    assert not {name for task, name in _tasks(anyio_backend_name).items() if task not in tasks}, (
        "tasks remain"
    )
    assert not _timers(anyio_backend_name), "timers remain"
    assert not _sockets() - sockets, "sockets remain"
    complaints = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "asyncio" or "internal error" in record.getMessage()
    ]
    assert not complaints


def _tasks(backend: str) -> dict[object, str]:
    if backend == "asyncio":
        # Among them are those in which anyio's test runner runs the fixtures.
        tasks = {task: repr(task) for task in asyncio.all_tasks()}
        return {task: name for task, name in tasks.items() if "TestRunner" not in name}
    found: dict[object, str] = {}
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        found[task] = task.name
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def _timers(backend: str) -> list[str]:
    """What the event loop would still wake up for."""
    if backend == "asyncio":
        scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        return [repr(handle) for handle in scheduled if not handle.cancelled()]
    seconds = trio.lowlevel.current_statistics().seconds_to_next_deadline
    return [f"a deadline in {seconds} s"] if seconds != float("inf") else []


def _sockets() -> set[str]:
    """The sockets of this process, where the system tells."""
    found: set[str] = set()
    for file in Path("/proc/self/fd").glob("*"):
        try:
            target = str(file.readlink())
        except OSError:
            continue  # that of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found


@dataclass
class Certificates:
    """An authority of the tests' own, and TLS settings for both sides."""

    authority: trustme.CA

    def server(self, *names: str, **certificate: Any) -> ssl.SSLContext:
        """A server's; without names it is right, `certificate` is what else it says."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued = self.authority.issue_cert(*names or ("127.0.0.1",), **certificate)
        issued.configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context

    @staticmethod
    def days(number: int) -> datetime:
        """So many days from now."""
        return datetime.now(UTC) + timedelta(days=number)


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    import trustme  # not for those that need no certificates

    return Certificates(trustme.CA())
