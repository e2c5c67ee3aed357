"""MB and nats-py side by side: the same work, in turns, in one run.

    python -m benchmarks [--rounds 5] [--messages 50000]

One client process with two connections, the server in another process, loopback.  The payload
is encoded before each send and decoded on each receipt, with msgspec on both sides.  Machines
are noisy: only the ratios of one run mean anything.  Needs nats-py and nats-server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol

import msgspec

from mb_client import Message, MessageBrokerClient

DOCUMENT = {
    "id": 12345,
    "city": "Reykjavik",
    "temperature": 21.5,
    "wind": {"speed": 7.25, "direction": "NNE"},
    "tags": ["a", "b", "c"],
}
IN_FLIGHT = 64

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode


class Peer(Protocol):
    """A library under measurement, connected twice: one that sends, one that receives."""

    async def listen(self, handler: Callable[[Any], None]) -> None: ...
    async def publish(self, count: int) -> None: ...
    async def serve(self) -> None: ...
    async def ask(self) -> Any: ...


class MB:
    def __init__(self, sender: MessageBrokerClient, receiver: MessageBrokerClient) -> None:
        self._sender = sender
        self._receiver = receiver

    async def listen(self, handler: Callable[[Any], None]) -> None:
        await self._receiver.subscribe("bench.events", handler=lambda m: handler(m.payload))

    async def publish(self, count: int) -> None:
        publish = self._sender.publish
        for _ in range(count):
            await publish("bench.events", DOCUMENT)

    async def serve(self) -> None:
        def answer(message: Message) -> Any:
            return message.payload

        await self._receiver.subscribe("bench.echo", action="request", handler=answer)

    async def ask(self) -> Any:
        return (await self._sender.request("bench.echo", DOCUMENT)).payload


class NATS:
    def __init__(self, sender: Any, receiver: Any) -> None:
        self._sender = sender
        self._receiver = receiver

    async def listen(self, handler: Callable[[Any], None]) -> None:
        async def receive(message: Any) -> None:
            handler(decode(message.data))

        await self._receiver.subscribe("bench.events", cb=receive)
        await self._receiver.flush()

    async def publish(self, count: int) -> None:
        publish = self._sender.publish
        for _ in range(count):
            await publish("bench.events", encode(DOCUMENT))

    async def serve(self) -> None:
        async def answer(message: Any) -> None:
            await message.respond(encode(decode(message.data)))

        await self._receiver.subscribe("bench.echo", cb=answer)
        await self._receiver.flush()

    async def ask(self) -> Any:
        return decode((await self._sender.request("bench.echo", encode(DOCUMENT), timeout=30)).data)


@contextlib.asynccontextmanager
async def mb_over(scheme: str) -> AsyncIterator[MB]:
    ports = {"tcp": 0, "ws": 0}
    command = [sys.executable, "-m", "mb_tools", "serve", "--tcp-port", "0", "--ws-port", "0"]
    # Blocking for a moment is no harm here: nothing is measured yet.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as broker:  # noqa: ASYNC220
        try:
            assert broker.stdout is not None
            urls = {
                line.split(":")[0]: line.strip()
                for line in (broker.stdout.readline() for _ in ports)
            }
            async with (
                MessageBrokerClient(urls[scheme]) as one,
                MessageBrokerClient(urls[scheme]) as two,
            ):
                yield MB(one, two)
        finally:
            broker.terminate()


@contextlib.asynccontextmanager
async def nats() -> AsyncIterator[NATS]:
    import nats as nats_py

    with nats_server() as url:
        one, two = await nats_py.connect(url), await nats_py.connect(url)
        try:
            yield NATS(one, two)
        finally:
            await one.close()
            await two.close()


@contextlib.contextmanager
def nats_server() -> Iterator[str]:
    program = shutil.which("nats-server") or "/usr/sbin/nats-server"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with subprocess.Popen(
        [program, "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    ) as server:
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
            yield f"nats://127.0.0.1:{port}"
        finally:
            server.terminate()


async def measure(peer: Peer, messages: int) -> Callable[[], Awaitable[dict[str, float]]]:
    """Prepare the peer; gives a function that measures one round."""
    received = 0
    complete = asyncio.Event()

    def handle(document: Any) -> None:
        nonlocal received
        received += 1
        if received == messages:
            complete.set()

    await peer.listen(handle)
    await peer.serve()

    async def round_() -> dict[str, float]:
        nonlocal received
        received = 0
        complete.clear()
        start = time.perf_counter()
        await peer.publish(messages)
        published = time.perf_counter()
        await asyncio.wait_for(complete.wait(), 60)
        handled = time.perf_counter()

        latencies = []
        for _ in range(messages // 50):
            before = time.perf_counter()
            await peer.ask()
            latencies.append(time.perf_counter() - before)

        left = iter(range(messages // 5))

        async def ask() -> None:
            for _ in left:
                await peer.ask()

        before = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
        seconds = time.perf_counter() - before
        return {
            "publish/s": messages / (published - start),
            "publish to handler/s": messages / (handled - start),
            "request p50 us": statistics.median(latencies) * 1e6,
            "64 in flight/s": (messages // 5) / seconds,
        }

    return round_


async def main(rounds: int, messages: int) -> None:
    async with mb_over("tcp") as tcp, mb_over("ws") as ws, nats() as peer:
        contenders = {
            "nats-py": await measure(peer, messages),
            "mb tcp": await measure(tcp, messages),
            "mb ws": await measure(ws, messages),
        }
        results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, round_ in contenders.items():
                results[name].append(await round_())
    print(f"CPython {platform.python_version()}, {rounds} rounds of {messages} messages, medians")
    print(f"{'':<22}" + "".join(f"{name:>12}" for name in results) + "   mb tcp / nats-py")
    for figure in results["nats-py"][0]:
        medians = {
            name: statistics.median(round_[figure] for round_ in rounds_)
            for name, rounds_ in results.items()
        }
        ratio = statistics.median(
            mine[figure] / theirs[figure]
            for mine, theirs in zip(results["mb tcp"], results["nats-py"], strict=True)
        )
        row = "".join(f"{medians[name]:>12,.0f}" for name in results)
        print(f"{figure:<22}{row}{ratio:>13.2f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=50_000)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rounds, arguments.messages))
