"""The commands in the docstring of seed_example.py are all that it needs."""

from __future__ import annotations

import ast
import re
import shlex
import signal
import subprocess
import sys

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker, wait_until

from .programs import EXAMPLES, PATIENCE, started


def test_what_has_to_answer_it(mb_broker: FaultyBroker) -> None:
    path = EXAMPLES / "seed_example.py"
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    serve, reply, pub = (shlex.split(line) for line in re.findall(r"^ +mb (.*)", docstring, re.M))
    assert serve == ["serve"]

    tcp, ws = mb_broker.url_of("tcp"), mb_broker.url_of("ws")
    with (
        started("-m", "mb_tools", *reply, url=tcp),
        MessageBrokerClient(mb_broker.url) as client,
    ):
        wait_until(lambda: "test.service" in topics(client))
        # The example connects to localhost:8080.
        with started(
            path, url="", connect_to=f"localhost:8080={ws.removeprefix('ws://')}"
        ) as example:
            wait_until(lambda: "test.messages" in topics(client))
            assert example.stdout is not None
            printed = [example.stdout.readline() for _ in range(3)]
            command = [sys.executable, "-m", "mb_tools", *pub, "--url", tcp]
            subprocess.run(command, check=True, timeout=PATIENCE)
            printed += [example.stdout.readline() for _ in range(4)]
            example.send_signal(signal.SIGINT)
            assert example.wait(PATIENCE) == 0
        assert "".join(printed) == (
            'Got response: {\n  "answer": "from the service"\n}\n'
            "Received message on topic: test.messages\n"
            'Payload: {\n  "hello": "example"\n}\n'
        )


def topics(client: MessageBrokerClient) -> list[str]:
    found = client.request("system.topic.list", {}).payload["topics"]
    return [entry["topic"] for entry in found]
