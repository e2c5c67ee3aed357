"""The programs in examples/ do what they say, unchanged, against a broker on other ports."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from mb_broker import Broker
from mb_client import Message, MessageBrokerClient

from .guide.pages import redirected

sys.path.insert(0, str(Path(__file__).parent))

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[1] / "examples"


async def test_the_specification_s_example_runs_as_it_is(mb_broker: Broker) -> None:
    asked: list[object] = []

    def answer(message: Message) -> dict[str, str]:
        asked.append(message.payload)
        return {"answer": "from the service"}

    with anyio.fail_after(30):
        async with MessageBrokerClient(mb_broker.url) as client:
            await client.subscribe("test.service", action="request", handler=answer)
            async with client.subscribe("test.events") as events:
                with program(EXAMPLES / "seed_example.py", mb_broker) as example:
                    assert example.stdout is not None
                    assert example.stderr is not None

                    # The publication comes last: everything before it has happened by then.
                    event = await anext(events)
                    assert event.payload["event"] == "test"
                    assert asked == [{"data": "test"}]

                    services = (await client.request("system.service.list", {})).payload["services"]
                    [service] = [one for one in services if one["name"] == "TestService"]
                    assert service["description"] == "Python test service"
                    topics = (await client.request("system.topic.list", {})).payload["topics"]
                    assert {
                        "action": "publish",
                        "topic": "test.messages",
                        "subscribers": [{"serviceId": service["id"]}],
                    } in topics

                    await client.publish("test.messages", {"hello": "example"}, confirm=True)
                    printed = [
                        await anyio.to_thread.run_sync(example.stdout.readline) for _ in range(7)
                    ]
                    assert "".join(printed) == (
                        'Got response: {\n  "answer": "from the service"\n}\n'
                        "Received message on topic: test.messages\n"
                        'Payload: {\n  "hello": "example"\n}\n'
                    )

                    example.send_signal(signal.SIGINT)
                    status = await anyio.to_thread.run_sync(example.wait)
                    assert (status, example.stderr.read()) == (0, "")


def test_the_specification_s_example_only_gained_imports() -> None:
    tree = ast.parse((EXAMPLES / "seed_example.py").read_text())
    modules = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    modules |= {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    assert modules == {"asyncio", "json", "typing", "mb_client", "datetime"}


async def test_service_and_client_find_each_other(mb_broker: Broker) -> None:
    with anyio.fail_after(30), program(EXAMPLES / "service.py", mb_broker) as service:
        await registered(mb_broker, "weather.current")
        with program(EXAMPLES / "client.py", mb_broker) as client:
            out, err = await anyio.to_thread.run_sync(client.communicate)
            assert out == "{'city': 'Oslo', 'degrees': 3}\nweather.asked {'city': 'Oslo'}\n"
            assert (client.returncode, err) == (0, "")
        service.send_signal(signal.SIGINT)
        out, err = await anyio.to_thread.run_sync(service.communicate)
        assert (service.returncode, out, err) == (0, "", "")


async def registered(broker: Broker, topic: str) -> None:
    """Wait until somebody answers `topic`."""
    async with MessageBrokerClient(broker.url) as client:
        while True:
            topics = (await client.request("system.topic.list", {})).payload["topics"]
            if topic in [entry["topic"] for entry in topics]:
                return


@contextmanager
def program(path: Path, broker: Broker) -> Iterator[subprocess.Popen[str]]:
    """Run a program; it is killed if it still runs at the end."""
    with subprocess.Popen(
        [sys.executable, str(path)],
        env=redirected(broker),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
