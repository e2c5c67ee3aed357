"""The Broker on real links: how it ends, what it does in time, and its limits."""

from __future__ import annotations

import contextlib
import logging

import anyio
import anyio.lowlevel
import pytest

from mb_broker import Broker
from mb_core import ConnectError
from mb_testing import until

from .broker_messages import EVERYWHERE, STREAMS, Connect, port_of

pytestmark = pytest.mark.anyio
ID = "123e4567-e89b-42d3-a456-426614174000"
HEARTBEAT = b"request:system.heartbeat:1.0.0\n{}"


def id_of(message: bytes) -> str:
    return message.partition(b"\n")[0].decode().split(":")[3]


# How it ends


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_leaving_ends_all_connections(host: str, connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(host) as broker:
            clients = [await connect(broker.url) for _ in range(3)]
            for client in clients:
                await client.subscribe("a.b", "request")
        for client in clients:
            await client.lost.wait()
            assert client.error is None
    assert broker.connections == 0
    with pytest.raises(ConnectError):
        await connect(broker.url)


@pytest.mark.parametrize("host", STREAMS)
async def test_the_port_is_free_afterwards(host: str, connect: Connect) -> None:
    async with Broker(host) as broker:
        client = await connect(broker.url)
    await client.lost.wait()
    async with Broker(broker.url) as successor:
        assert successor.url == broker.url


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_what_was_sent_before_leaving_arrives(host: str, connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(host) as broker:
            receiver, sender = await connect(broker.url), await connect(broker.url)
            await receiver.subscribe("a.b")
            sender.send(*[f"publish:a.b:1.0.0\n{'x' * 16_000}"] * 50)
            await sender.is_served()
        await receiver.lost.wait()
    assert len(receiver.inbox) == 50


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_leaving_waits_for_answers_to_requests_in_flight(host: str, connect: Connect) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, Broker(host) as broker:
            responder, requester = await connect(broker.url), await connect(broker.url)
            await responder.subscribe("a.b", "request")
            requester.send(f"request:a.b:1.0.0:{ID}\n1")
            request_id = id_of(await responder.receive())

            async def answer() -> None:
                # It runs when the block has been left: another request is refused.
                requester.send("request:a.b:1.0.0\n2")
                assert b"SERVICE_UNAVAILABLE" in await requester.receive()
                responder.send(f"response:a.b:1.0.0:{request_id}\n3")

            tasks.start_soon(answer)
        assert await requester.receive() == f"response:a.b:1.0.0:{ID}\n3".encode()
        await requester.lost.wait()


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_a_drain_accepts_nobody(host: str, connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(host) as broker:
            client = await connect(broker.url)
            await broker.drain()
            with pytest.raises(ConnectError):
                await connect(broker.url)
            await client.is_served()


async def test_a_drain_has_a_time_limit(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(4):
        async with Broker(drain_timeout=50) as broker:
            responder, requester = await connect(broker.url), await connect(broker.url)
            await responder.subscribe("a.b", "request")
            requester.send(f"request:a.b:1.0.0:{ID}\n1")
            await responder.receive()
        await requester.lost.wait()
    assert "gave up on 1 request in flight" in caplog.text


async def test_drains_may_overlap(connect: Connect) -> None:
    with anyio.fail_after(4):
        async with Broker() as broker:
            responder = await connect(broker.url)
            await responder.subscribe("a.b", "request")
            responder.send(f"request:a.b:1.0.0:{ID}\n1")
            request_id = id_of(await responder.receive())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(broker.drain)
                tasks.start_soon(broker.drain)
                await anyio.wait_all_tasks_blocked()
                responder.send(f"response:a.b:1.0.0:{request_id}\n2")
            await broker.drain()


async def test_a_responder_that_leaves_ends_the_drain(connect: Connect) -> None:
    with anyio.fail_after(4):
        async with Broker() as broker:
            responder, requester = await connect(broker.url), await connect(broker.url)
            await responder.subscribe("a.b", "request")
            requester.send(f"request:a.b:1.0.0:{ID}\n1")
            await responder.receive()
            responder.link.close()
        assert b"SERVICE_UNAVAILABLE" in await requester.receive()


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_leaving_by_an_error_waits_for_no_answers(host: str, connect: Connect) -> None:
    with anyio.fail_after(4):
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012 -- the block is what is tested
            async with Broker(host) as broker:
                responder = await connect(broker.url)
                await responder.subscribe("a.b", "request")
                responder.send(f"request:a.b:1.0.0:{ID}\n1")
                await responder.receive()
                raise KeyError("mine")
        await responder.lost.wait()
    assert broker.connections == 0


@pytest.mark.parametrize("host", EVERYWHERE)
@pytest.mark.parametrize("when", ["in the block", "in the drain"])
async def test_leaving_that_is_cancelled_ends_everything(
    when: str, host: str, connect: Connect
) -> None:
    clients = []
    broker = Broker(host)

    async def serve(task_status: anyio.abc.TaskStatus[None]) -> None:
        async with broker:
            responder = await connect(broker.url)
            clients.append(responder)
            await responder.subscribe("a.b", "request")
            responder.send(f"request:a.b:1.0.0:{ID}\n1")
            await responder.receive()
            task_status.started()
            if when == "in the block":
                await anyio.sleep_forever()

    with anyio.fail_after(4):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await clients[0].lost.wait()
    assert broker.connections == 0
    if broker.url.startswith("tcp"):
        async with Broker(broker.url):
            pass


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("host", STREAMS)
async def test_who_connects_while_it_ends_is_not_left_hanging(host: str, turns: int) -> None:
    async def read_to_the_end(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()

    broker = Broker(host)
    with anyio.fail_after(4):
        async with anyio.create_task_group() as tasks, broker:
            stream = await anyio.connect_tcp("127.0.0.1", port_of(broker.url))
            tasks.start_soon(read_to_the_end, stream)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
    assert broker.connections == 0


@pytest.mark.parametrize("turns", range(4))
async def test_who_connects_in_memory_while_it_ends_is_not_left_hanging(
    turns: int, connect: Connect
) -> None:
    with anyio.fail_after(4):
        async with Broker() as broker:
            client = await connect(broker.url, greeted=False)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        await client.lost.wait()
    assert broker.connections == 0


# What happens in time


@pytest.mark.virtual_clock(patience=1)
async def test_who_sends_a_message_slowly_is_not_dropped_while_it_arrives() -> None:
    text = b"request:system.heartbeat:1.0.0:%b\n{}" % ID.encode()
    data = len(text).to_bytes(4) + text
    async with (
        Broker("tcp://127.0.0.1:0", heartbeat_after=1_000, drop_after=2_000) as broker,
        await anyio.connect_tcp("127.0.0.1", port_of(broker.url)) as stream,
    ):
        received = await stream.receive()
        for position in range(len(data)):
            await anyio.sleep(0.9)
            await stream.send(data[position : position + 1])
        while b"success" not in received:
            received += await stream.receive()
        assert received.count(HEARTBEAT) == 0
        gone = anyio.current_time()
        with contextlib.suppress(anyio.EndOfStream):
            while received := await stream.receive():
                pass
        assert 2 <= anyio.current_time() - gone <= 3


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_a_client_that_never_says_anything_is_asked_and_dropped(
    host: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mb_broker")
    async with Broker(host, heartbeat_after=40, drop_after=400) as broker:
        client = await connect(broker.url)
        with anyio.fail_after(5):
            assert await client.receive() == HEARTBEAT
            await client.lost.wait()
            await until(lambda: broker.connections == 0)
    assert client.error is None
    assert "was silent for too long: dropped" in caplog.text


async def test_a_client_that_answers_stays(connect: Connect) -> None:
    async with Broker(heartbeat_after=20, drop_after=2000) as broker:
        client = await connect(broker.url)
        with anyio.fail_after(5):
            for _ in range(4):
                assert await client.receive() == HEARTBEAT
                client.send("response:system.heartbeat:1.0.0\n{}")


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_requests_time_out(host: str, connect: Connect) -> None:
    async with Broker(host, request_timeout=30) as broker:
        client = await connect(broker.url)
        await client.subscribe("a.b", "request")
        with anyio.fail_after(5):
            client.send(f"request:a.b:1.0.0:{ID}\n1", f"request:a.b:1.0.0:{ID}::90\n2")
            for _ in range(2):
                await client.receive()
            for _ in range(2):
                assert b'"TIMEOUT"' in await client.receive()


async def test_an_earlier_deadline_is_not_kept_waiting_by_a_later_one(connect: Connect) -> None:
    async with Broker() as broker:
        client = await connect(broker.url)
        await client.subscribe("a.b", "request")
        with anyio.fail_after(5):
            client.send(f"request:a.b:1.0.0:{ID}::60000\n1")
            await client.receive()
            client.send(f"request:a.b:1.0.0:{ID}::20\n2")
            await client.receive()
            assert b'"TIMEOUT"' in await client.receive()
        await client.close()


# Limits


@pytest.mark.parametrize("host", EVERYWHERE)
async def test_the_limit_of_a_payload_is_an_option(host: str, connect: Connect) -> None:
    async with Broker(host, max_payload=100) as broker:
        client, other = await connect(broker.url), await connect(broker.url)
        await client.subscribe("a.b")
        client.send(f"publish:a.b:1.0.0\n{'x' * 100}")
        assert (await client.receive()).endswith(b"x" * 100)
        client.send(f"publish:a.b:1.0.0:{ID}\n{'x' * 101}")
        assert b"MALFORMED_MESSAGE" in await client.receive()
        # The limit of a message: that of the payload and the longest header.
        client.send(f"publish:a.b:1.0.0\n{'x' * 449}")
        assert b"MALFORMED_MESSAGE" in await client.receive()
        client.send(f"publish:a.b:1.0.0\n{'x' * 450}")
        with anyio.fail_after(5):
            await client.lost.wait()
        await other.is_served()


async def test_who_does_not_read_holds_up_nobody_else(connect: Connect) -> None:
    async with Broker("tcp://127.0.0.1:0") as broker:
        async with await anyio.connect_tcp("127.0.0.1", port_of(broker.url)) as sleeper:
            message = b'request:system.topic.subscribe:1.0.0\n{"action":"publish","topic":"#"}'
            await sleeper.send(len(message).to_bytes(4) + message)
            receiver, sender = await connect(broker.url), await connect(broker.url)
            await receiver.subscribe("a.b")
            with anyio.fail_after(10):
                for number in range(500):
                    sender.send(f"publish:a.b:1.0.0\n{number:<16000}")
                    await sender.link.drain()
                for number in range(500):
                    assert int((await receiver.receive()).partition(b"\n")[2]) == number
        await receiver.is_served()
