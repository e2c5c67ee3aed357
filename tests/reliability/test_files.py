"""Processes that have no file left: brokers with many clients, and programs that open many."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from mb_broker.ports import HOST, reserved_port
from mb_client import MessageBrokerClient

from .brokers import thread_broker
from .scene import FAST
from .traffic import PATIENCE, Signal

# What `ulimit -n` says in them.
FILES = 256


@contextmanager
def limited_broker(log: Path) -> Iterator[int]:
    """`mb serve` that may open FILES; gives its port."""
    with reserved_port() as port, log.open("w") as output:
        serve = f"{sys.executable} -m mb_tools serve --tcp-port {port} --ws-port off"
        with subprocess.Popen(
            ["sh", "-c", f"ulimit -n {FILES}; exec {serve}"],
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline(), log.read_text()
                yield port
            finally:
                process.terminate()


@pytest.mark.anyio
@pytest.mark.usefixtures("nothing_remains")
async def test_a_broker_without_files_serves_its_clients_and_accepts_more_when_some_have_left(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    connected = Signal()
    with limited_broker(log) as port, anyio.fail_after(3 * PATIENCE):
        url = f"tcp://{HOST}:{port}"
        late = MessageBrokerClient(url, **FAST | {"retry_connect": True})
        late.on_connect(connected)
        async with MessageBrokerClient(url) as service, MessageBrokerClient(url) as client:
            await service.subscribe("echo", action="request", handler=lambda m: m.payload)
            began = anyio.current_time()
            with ExitStack() as others:
                for _ in range(400):
                    others.enter_context(socket.create_connection((HOST, port), PATIENCE))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(late.connect)
                    # Those that were there are served as before, while it has tried several times.
                    while "can't accept" not in log.read_text() or connected.count:
                        await client.request("echo", 0)
                    for number in range(200):
                        assert (await client.request("echo", number)).payload == number
                    assert not connected.count
                    others.close()
                    await connected.reaches(1, "the late client is connected")
            assert (await late.request("echo", 7)).payload == 7
            await late.close()
            lines = [line for line in log.read_text().splitlines() if "can't accept" in line]
            assert lines[0].endswith(": Too many open files (raise the limit: ulimit -n)")
            assert len(lines) <= anyio.current_time() - began + 2, "more than one a second"


# It opens clients until it can't; then the first two go on, and when the others are closed,
# another one connects.
MANY = {
    "async": """
import sys
import anyio
from mb_client import ConnectError, MessageBrokerClient

async def main(url):
    clients = []
    try:
        while True:
            client = MessageBrokerClient(url)
            await client.connect()
            clients.append(client)
    except ConnectError as error:
        print(error)
    service, client, *others = clients
    await service.subscribe("echo", action="request", handler=lambda m: m.payload)
    print((await client.request("echo", 1)).payload)
    for each in others:
        await each.close()
    async with MessageBrokerClient(url) as again:
        print((await again.request("echo", 2)).payload)
    await client.close()
    await service.close()

anyio.run(main, sys.argv[1], backend=sys.argv[2])
""",
    "sync": """
import sys
from mb_core import ConnectError
from mb_sync import MessageBrokerClient

url = sys.argv[1]
clients = []
try:
    while True:
        client = MessageBrokerClient(url)
        client.connect()
        clients.append(client)
except ConnectError as error:
    print(error)
service, client, *others = clients
service.subscribe("echo", action="request", handler=lambda m: m.payload)
print(client.request("echo", 1).payload)
for each in others:
    each.close()
with MessageBrokerClient(url) as again:
    print(again.request("echo", 2).payload)
client.close()
service.close()
""",
}


@pytest.mark.parametrize("kind", ["asyncio", "trio", "sync"])
@pytest.mark.parametrize("scheme", ["tcp", "ws"])
def test_a_program_without_files_is_told_so_and_goes_on(kind: str, scheme: str) -> None:
    program = MANY["sync" if kind == "sync" else "async"]
    with thread_broker(scheme) as broker:
        command: list[Any] = [sys.executable, "-c", program, broker.url, kind]
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh", *command],
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        told, first, second = done.stdout.splitlines()
        address = broker.url.partition("://")[2].rstrip("/")
        why = "Too many open files (raise the limit: ulimit -n)"
        assert told == f"can't connect to {address}: {why}"
        assert (first, second) == ("1", "2")
