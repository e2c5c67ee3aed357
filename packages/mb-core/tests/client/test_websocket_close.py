"""A broker that closes the WebSocket in order, and does not hang up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_core import ConnectionLost, MessageBrokerClient
from mb_core.wire import Limits, WireState
from mb_ws import server_wire

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

GREETING = b"publish:system.initialize:1.0.0\n{}"


class Server:
    """Greets each client, and leaves the first one as soon as it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.leave, self.left = anyio.Event(), anyio.Event()
        self.received: list[bytes] = []
        self._connections = 0

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        self._connections += 1
        first = self._connections == 1
        wire = server_wire(Limits())
        try:
            async with stream, anyio.create_task_group() as tasks:
                while wire.state is WireState.HANDSHAKE:
                    wire.receive_data(await stream.receive())
                wire.send(GREETING)
                await stream.send(wire.data_to_send())
                if first:
                    tasks.start_soon(self._leave, wire, stream)
                while wire.state is not WireState.CLOSED:
                    self.received += wire.receive_data(await stream.receive())
                if first:
                    self.left.set()
                    await anyio.sleep_forever()
                await stream.send(wire.data_to_send())
        except* (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass

    async def _leave(self, wire: Any, stream: anyio.abc.ByteStream) -> None:
        await self.leave.wait()
        wire.close("going away")
        await stream.send(wire.data_to_send())


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        server.url = f"ws://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


async def leave(server: Server) -> None:
    """Have the broker say goodbye, and wait until the client has said it as well."""
    server.leave.set()
    await server.left.wait()
    await anyio.wait_all_tasks_blocked()


# Far more than the tests may take: nobody waits for the end of the stream.
PATIENT: dict[str, Any] = {"close_timeout": 60_000, "heartbeat_interval": None}


@pytest.mark.parametrize("limit", [0, 1000])
async def test_publications_do_not_wait_beside_the_buffer(server: Server, limit: int) -> None:
    with anyio.fail_after(10):
        client = MessageBrokerClient(
            server.url, **PATIENT, publish_buffer=limit, backoff_min=500, backoff_max=500
        )
        await client.connect()
        await leave(server)
        taken = 0
        with contextlib.suppress(ConnectionLost):
            while taken < 1000:
                await client.publish("a.b", "x" * 100)
                taken += 1
        # Those of the turns in which the link closes: some more on trio, where tasks run in no
        # particular order.
        assert client.stats().buffered == taken
        assert client.stats().buffered_bytes <= limit + 10_000
        await client.wait_connected(5000)
        await client.publish("a.b", "last")
        while not server.received or not server.received[-1].endswith(b'"last"'):
            await anyio.lowlevel.checkpoint()
        assert len(server.received) == taken + 1
        await client.close()


@pytest.mark.parametrize("retry", [False, True])
async def test_a_request_does_not_wait_until_it_hangs_up(server: Server, retry: bool) -> None:
    with anyio.fail_after(10):
        client = MessageBrokerClient(server.url, **PATIENT)
        await client.connect()
        await leave(server)
        if retry:
            with anyio.move_on_after(10) as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(lambda: client.request("a.b", 1, retry=True))
                    while not server.received:
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            assert not scope.cancelled_caught
        else:
            with pytest.raises(ConnectionLost) as lost:
                await client.request("a.b", 1)
            assert not lost.value.sent
        await client.close()
