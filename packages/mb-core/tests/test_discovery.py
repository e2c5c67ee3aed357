"""Finding plugins beside a running event loop: other tasks go on meanwhile."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mb_broker import Broker
from mb_core import (
    ConnectError,
    LocalProtocolError,
    MessageBrokerClient,
    TCPSocketClient,
    WebSocketClient,
    installed_plugins,
)
from mb_core.plugins import in_worker, registry

pytestmark = pytest.mark.anyio

Kind = Callable[[], Any]


class SlowImport:
    """The import of mb-tcp, which takes until it is told to go on."""

    def __init__(self, loop: Callable[[], None]) -> None:
        self.began = anyio.Event()
        self.proceed = threading.Event()
        self.imports = 0
        self._tell_loop = loop
        (self._entry,) = [entry for entry in registry._entry_points() if entry.name == "tcp"]
        self.name, self.group, self.value = "tcp", self._entry.group, self._entry.value
        self.dist = self._entry.dist

    def load(self) -> object:
        self.imports += 1
        self._tell_loop()
        assert self.proceed.wait(10), "the event loop waits for the import"
        return self._entry.load()


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> Any:
    # Whatever event loop runs: it is told from another thread.
    from mb_core.link import current_backend

    post = current_backend().poster()
    slow = SlowImport(lambda: post(lambda: slow.began.set()) and None)
    others = [entry for entry in registry._entry_points() if entry.name not in ("tcp", "tls")]
    monkeypatch.setattr(registry, "_entry_points", lambda: [slow, *others])
    monkeypatch.setattr(registry, "_found", {})
    yield slow
    slow.proceed.set()


@pytest.mark.parametrize("kind", [MessageBrokerClient, TCPSocketClient])
async def test_other_tasks_run_while_a_transport_is_imported(
    kind: Kind, mb_broker: Any, slow: SlowImport
) -> None:
    client = kind()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect, mb_broker.url_of("tcp"))
            await slow.began.wait()
            slow.proceed.set()
        await client.close()
    assert slow.imports == 1


async def test_other_tasks_run_while_a_broker_imports_its_transport(slow: SlowImport) -> None:
    async def serve() -> None:
        async with Broker("tcp://127.0.0.1:0"):
            pass

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await slow.began.wait()
            slow.proceed.set()


@pytest.mark.parametrize("kind", [MessageBrokerClient, TCPSocketClient])
async def test_a_connect_can_be_cancelled_and_closed_while_its_transport_is_imported(
    kind: Kind, mb_broker: Any, slow: SlowImport
) -> None:
    client, url = kind(), mb_broker.url_of("tcp")
    closed: list[Exception] = []

    async def connect() -> None:
        try:
            await client.connect(url)
        except ConnectError as error:
            closed.append(error)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            await slow.began.wait()
            tasks.cancel_scope.cancel()
        assert closed == []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            await anyio.wait_all_tasks_blocked()
            await client.close()
            slow.proceed.set()
        assert str(closed[0]) == "the client was closed while it was connecting"
        await client.connect(url)  # nothing is left of either
        await client.close()


async def test_of_two_tasks_that_connect_one_does(mb_broker: Any, slow: SlowImport) -> None:
    for kind in (MessageBrokerClient, TCPSocketClient):
        client, faults = kind(), []

        async def connect(client: Any = client, faults: Any = faults) -> None:
            try:
                await client.connect(mb_broker.url_of("tcp"))
            except LocalProtocolError as error:
                faults.append(str(error))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connect)
                tasks.start_soon(connect)
                await slow.began.wait()
                slow.proceed.set()
            await client.close()
        [fault] = faults
        assert re.match("this client (is being|was) connected already", fault)


async def test_what_is_imported_already_takes_no_thread(
    mb_broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_plugins().load(["ws"])
    monkeypatch.setattr("mb_core.plugins.discovery.in_worker", None)
    async with WebSocketClient() as client:
        await client.connect(mb_broker.url_of("ws"))


async def test_where_no_thread_can_be_started_it_is_done_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr("trio._core._thread_cache.THREAD_CACHE._idle_workers", {})
    here = threading.get_ident()
    assert await in_worker(threading.get_ident) == here


async def test_what_the_function_raises_is_raised_once() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(threading.get_ident())
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await in_worker(fail)
    assert len(calls) == 1
    assert calls[0] != threading.get_ident()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MessageBrokerClient("tcp://127.0.0.1:1").connect(),
        lambda: TCPSocketClient().connect("127.0.0.1", 1),
    ],
    ids=["MessageBrokerClient", "TCPSocketClient"],
)
async def test_what_is_installed_and_can_not_be_read_is_a_connect_error(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Any:
        raise OSError(errno.EMFILE, "Too many open files", "/site-packages/METADATA")

    monkeypatch.setattr(registry, "_entry_points", refused)
    monkeypatch.setattr(registry, "_found", {})
    with pytest.raises(ConnectError) as caught:
        await make()
    assert str(caught.value) == (
        "can't read the installed plugins: Too many open files (raise the limit: ulimit -n)"
    )
    assert not caught.value.final
