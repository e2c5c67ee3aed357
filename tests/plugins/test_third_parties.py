"""Plugins of third parties, installed as distributions, at work in programs of their users."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .distributions import CODEC, FRONTEND, OBSERVER, TRANSPORT, Environment

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

PROGRAM = """
import anyio, mb_core
from mb_client import Broker, MessageBrokerClient

async def main():
    async with Broker("{listen}") as broker:
        async with mb_core.connect(broker.url, {options}) as client:
            await client.subscribe("echo", action="request", handler=lambda m: m.payload)
            answer = await client.request("echo", {payload})
            print(type(client).__name__, broker.url.split(":")[0], answer.payload)

anyio.run(main, backend="{backend}")
"""


@BACKENDS
def test_a_transport_carries_client_and_broker(backend: str, environment: Environment) -> None:
    environment.install("mb-acme", TRANSPORT, transports=["acme"])
    done = environment.python(
        PROGRAM.format(listen="acme://127.0.0.1:0", options="", payload="7", backend=backend)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "MessageBrokerClient acme 7\n"


@BACKENDS
def test_a_codec_and_a_front_end_are_chosen_by_name(backend: str, environment: Environment) -> None:
    environment.install("mb-repr", CODEC, codecs=["repr"])
    environment.install("mb-windows", FRONTEND, frontends=["windows"])
    done = environment.python(
        PROGRAM.format(
            listen="tcp://127.0.0.1:0",
            options="frontend='windows', codec='repr'",
            payload="(1, {2})",
            backend=backend,
        )
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Windows tcp (1, {2})\n"


@BACKENDS
def test_an_observer_hears_of_every_client_that_does_not_know_of_it(
    backend: str, environment: Environment
) -> None:
    environment.install("mb-print", OBSERVER, observers=["print"])
    done = environment.python(
        PROGRAM.format(listen="tcp://127.0.0.1:0", options="", payload="7", backend=backend)
    )
    assert (done.returncode, done.stderr) == (0, "")
    heard = [line for line in done.stdout.splitlines() if "heartbeat" not in line]
    assert heard == [
        "received publish system.initialize",
        "connected to tcp False",
        "received response system.topic.subscribe",
        "received request echo",
        "received response echo",
        "MessageBrokerClient tcp 7",
        "received response system.topic.unsubscribe",
    ]


def test_the_blocking_client_has_all_of_them_too(environment: Environment) -> None:
    environment.install("mb-acme", TRANSPORT, transports=["acme"])
    environment.install("mb-repr", CODEC, codecs=["repr"])
    environment.install("mb-print", OBSERVER, observers=["print"])
    done = environment.python("""
import mb_broker, mb_core
with mb_broker.running("acme://127.0.0.1:0") as broker:
    with mb_core.connect(broker.url, frontend="sync", codec="repr") as client:
        client.subscribe("echo", action="request", handler=lambda m: m.payload)
        print(client.request("echo", (1, {2})).payload)
""")
    assert (done.returncode, done.stderr) == (0, "")
    heard = [line for line in done.stdout.splitlines() if "system" not in line]
    assert heard == [
        "connected to acme False",
        "received request echo",
        "received response echo",
        "(1, {2})",
    ]


def test_the_command_mb_serves_and_uses_a_transport(environment: Environment) -> None:
    environment.install("mb-acme", TRANSPORT, transports=["acme"])
    with subprocess.Popen(
        [sys.executable, "-m", "mb_tools", "serve", "--listen=acme://127.0.0.1:0"],
        env=environment.environ(),
        stdout=subprocess.PIPE,
        text=True,
    ) as broker:
        try:
            assert broker.stdout is not None
            url = broker.stdout.readline().strip()
            assert url.startswith("acme://127.0.0.1:")
            done = environment.mb("request", "system.heartbeat", "{}", "--url", url)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == '{"status":"success"}\n'
        finally:
            broker.terminate()
    assert broker.returncode == 0


def test_a_scheme_that_is_not_installed_is_known_once_it_is(environment: Environment) -> None:
    ask = ("request", "system.heartbeat", "{}", "--url", "acme://127.0.0.1:1")
    done = environment.mb(*ask)
    assert done.returncode == 3
    assert done.stderr == (
        "mb request: no installed plugin speaks acme:// "
        "(installed: memory://, tcp://, tls://, ws://, wss://)\n"
    )
    environment.install("mb-acme", TRANSPORT, transports=["acme"])
    done = environment.mb(*ask)
    assert done.returncode == 3
    assert done.stderr.startswith("mb request: nobody listens on 127.0.0.1:1: ")
