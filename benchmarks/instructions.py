"""Instructions of Python for each message on its whole way: figures that noise can't change.

    python -m benchmarks.instructions [--modules] [--write]

The client and the broker run on one event loop, in memory and in virtual time, so that the same
happens in the same order each time; counted are the bytecode instructions of MB's own code, per
message, by `sys.monitoring`.  What C code does is not counted, nor what others' code does: time is
the matter of the other benchmarks.  `--write` makes the counts the budget that a test holds the
code to (benchmarks/instructions.json); they belong to one version of Python.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any, cast

from mb_broker import Broker
from mb_broker.access import token_digest
from mb_core import Limits, Message, MessageBrokerClient, Wire
from mb_core.link import checkpoints
from mb_core.url import URL
from mb_tcp.plugin import mb_register_transports as tcp_transports
from mb_testing import VirtualClock
from mb_ws.plugin import mb_register_transports as ws_transports

from .workload import DOCUMENT

__all__ = ["AS_USER", "BUDGET", "TOLERANCE", "VERSION", "measure", "read_budget"]

BUDGET = Path(__file__).with_name("instructions.json")
VERSION = "3.13"
"""The Python whose instructions are counted: each has others."""
TOLERANCE = 0.03
"""How much more than the budget a path may take, as a part of it."""

_PACKAGES = Path(__file__).parents[1] / "packages"
_COUNT = 500

Counts = dict[str, float]


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the instructions of MB's own code while the block lasts, by module.

    The instructions of the virtual clock are not counted.
    """
    counts: Counter[CodeType] = Counter()
    by_module: Counter[str] = Counter()
    monitoring = cast(Any, sys).monitoring  # since Python 3.12
    tool, event = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION
    own, clock = str(_PACKAGES), inspect.getfile(VirtualClock)

    def count(code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(own) or code.co_filename == clock:
            return monitoring.DISABLE  # and costs nothing from now on
        counts[code] += 1
        return None

    monitoring.use_tool_id(tool, "mb instructions")
    try:
        monitoring.register_callback(tool, event, count)
        monitoring.set_events(tool, event)
        yield by_module
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
        for code, number in counts.items():
            by_module[_module_of(code)] += number


def _module_of(code: CodeType) -> str:
    path = Path(code.co_filename).relative_to(_PACKAGES)
    return ".".join(path.with_suffix("").parts[2:])


# The paths, each for _COUNT messages after as many that are not counted: what is remembered then is


async def publish_to_handler(client: MessageBrokerClient, other: MessageBrokerClient) -> None:
    seen = 0
    all_seen = asyncio.Event()

    def handle(message: Message) -> None:
        nonlocal seen
        seen += 1
        if seen == _COUNT:
            all_seen.set()

    subscription = await other.subscribe("bench.event", handler=handle)
    for _ in range(_COUNT):
        await client.publish("bench.event", DOCUMENT)
    await all_seen.wait()
    await subscription.unsubscribe()


async def publish_to_iterator(client: MessageBrokerClient, other: MessageBrokerClient) -> None:
    async with other.subscribe("bench.event") as events:
        for _ in range(_COUNT):
            await client.publish("bench.event", DOCUMENT)
        for _ in range(_COUNT):
            await anext(events)


async def publish_confirmed(client: MessageBrokerClient, other: MessageBrokerClient) -> None:
    async with other.subscribe("bench.event"):
        for _ in range(_COUNT):
            await client.publish("bench.event", DOCUMENT, confirm=True)


async def request(client: MessageBrokerClient, other: MessageBrokerClient) -> None:
    for _ in range(_COUNT):
        await client.request("bench.echo", DOCUMENT)


CLIENT_PATHS = [publish_to_handler, publish_to_iterator, publish_confirmed, request]


AS_USER = " as a user"
"""What is added to the names of paths of clients that have authenticated."""

_TOKEN = "mb_benchmark"
# A limited user with its own roles, beside the one that `other` is.
_ACCESS = f"""
[roles.sender]
publish = ["bench.+"]
request = ["bench.#"]
[roles.service]
subscribe = ["bench.#"]
respond = ["bench.echo"]
[[users]]
name = "sender"
token_sha256 = "{token_digest(_TOKEN)}"
roles = ["sender"]
max_priority = 1
[[users]]
name = "service"
token_sha256 = "{token_digest(_TOKEN * 2)}"
roles = ["service"]
"""


async def _measure_clients(found: dict[str, Counter[str]]) -> None:
    # Counting slows everything down: turns that are taken by the clock would come at random.
    checkpoints.SLICE = math.inf
    await _measure_paths(found, Broker("memory://"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "access.toml"
        path.write_text(_ACCESS)
        broker = Broker("memory://", access=path)
    await _measure_paths(found, broker, AS_USER, _TOKEN, _TOKEN * 2)


async def _measure_paths(
    found: dict[str, Counter[str]],
    broker: Broker,
    ending: str = "",
    token: str | None = None,
    other_token: str | None = None,
) -> None:
    async with (
        broker,
        MessageBrokerClient(broker.url, token=token) as client,
        MessageBrokerClient(broker.url, token=other_token) as other,
    ):
        await other.subscribe("bench.echo", action="request", handler=lambda m: m.payload)
        for path in CLIENT_PATHS:
            await path(client, other)
            with counting() as counts:
                await path(client, other)
            found[path.__name__.replace("_", " ") + ending] = counts


def _measure_wires(found: dict[str, Counter[str]]) -> None:
    for transport in (tcp_transports()[0], ws_transports()[0]):
        limits = Limits()
        url = URL(transport.scheme, "localhost", 1, "/")
        near, far = transport.client(url, limits), transport.server(limits, None)
        for _ in range(3):  # the handshake
            _carry(near, far)
            _carry(far, near)
        message = b"publish:bench.event:1.0.0\n" + json.dumps(DOCUMENT).encode()

        def pass_on(near: Wire = near, far: Wire = far, message: bytes = message) -> None:
            for _ in range(_COUNT):
                near.send(message)
                if _carry(near, far) != [message]:
                    raise AssertionError("the message did not arrive")

        pass_on()
        with counting() as counts:
            pass_on()
        found[f"{transport.scheme} wire"] = counts


def _carry(near: Wire, far: Wire) -> list[bytes]:
    data = near.data_to_send()
    return far.receive_data(data) if data else []


def measure() -> dict[str, Counter[str]]:
    """The instructions of each path for `_COUNT` messages, by module."""
    found: dict[str, Counter[str]] = {}
    main: Callable[[dict[str, Counter[str]]], Awaitable[None]] = _measure_clients
    VirtualClock().run(main, found)
    _measure_wires(found)
    return found


def per_message(counts: Counter[str]) -> int:
    return round(counts.total() / _COUNT)


def read_budget() -> dict[str, int]:
    """The instructions that each path may take for a message."""
    budget: dict[str, int] = json.loads(BUDGET.read_text())
    return budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", action="store_true", help="say which modules they are in")
    parser.add_argument("--json", action="store_true", help="print the counts alone, as JSON")
    parser.add_argument("--write", action="store_true", help="make these the budget")
    arguments = parser.parse_args()
    if not sys.version.startswith(f"{VERSION}."):
        parser.error(f"needs Python {VERSION}: other versions have other instructions")
    found = measure()
    figures = {path: per_message(counts) for path, counts in found.items()}
    if arguments.write:
        BUDGET.write_text(json.dumps(figures, indent=4) + "\n")
    if arguments.json:
        print(json.dumps(figures))
        return
    for path, counts in found.items():
        print(f"{path:32}{figures[path]:8,}")
        for module, number in counts.most_common(12 if arguments.modules else 0):
            print(f"    {module:36}{number / _COUNT:8.1f}")


if __name__ == "__main__":
    main()
