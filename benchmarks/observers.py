"""What observers cost: none, one that does nothing, and the code of another checkout beside them.

    python -m benchmarks.observers [--rounds 5] [--messages 50000] [--before CHECKOUT]

Each client has a process of its own, in turns, in one run; so have the broker and the other side,
over TCP on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import mb_tcp.plugin
from mb_client import Message, MessageBrokerClient, Plugins, hookimpl

from . import processes, service
from .workload import DOCUMENT

CASES = ("request p50, µs", "publish/s", "publish to handler/s")

Figures = dict[str, float]


class Nothing:
    """An observer that hears everything and does nothing with it."""

    @hookimpl
    def mb_message_sending(self, message: Message) -> None: ...

    @hookimpl
    def mb_message_received(self, message: Message) -> None: ...

    @hookimpl
    def mb_request_finished(self, topic: str, duration: float) -> None: ...


async def measure(url: str, messages: int, *, observed: bool) -> Figures:
    # Not the installed ones: another checkout may look for them elsewhere.
    plugins = Plugins()
    plugins.register(mb_tcp.plugin, "mb-tcp")
    if observed:
        plugins.register(Nothing(), "nothing")
    async with MessageBrokerClient(url, plugins=plugins) as client:
        times = []
        for _ in range(messages // 20):
            began = time.perf_counter()
            await client.request("bench.echo", DOCUMENT)
            times.append(time.perf_counter() - began)

        began = time.perf_counter()
        for _ in range(messages):
            await client.publish("bench.sink", DOCUMENT)
        await client.request("bench.echo", None)  # the broker has had all before it
        published = time.perf_counter() - began

        seen, all_seen = 0, asyncio.Event()

        def handle(message: Message) -> None:
            nonlocal seen
            seen += 1
            if seen == messages:
                all_seen.set()

        await client.subscribe("bench.out", handler=handle, queue_size=None)
        began = time.perf_counter()
        await client.publish("bench.send", messages)
        await all_seen.wait()
        handled = time.perf_counter() - began
    found = [statistics.median(times) * 1e6, messages / published, messages / handled]
    return dict(zip(CASES, found, strict=True))


def run(url: str, messages: int, *, observed: bool, checkout: Path | None = None) -> Figures:
    """The figures of a client in a process of its own."""
    sources = checkout.glob("packages/*/src") if checkout is not None else ()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.observers", f"--messages={messages}"),
            *(f"--url={url}", *(["--observed"] if observed else [])),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sources))},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def compare(rounds: int, messages: int, before: Path | None) -> None:
    found: dict[str, list[Figures]] = {"no observer": [], "one observer": []}
    if before is not None:
        found = {"before": [], **found}
    with processes.mb_broker("tcp") as url, service.running(url):
        for _ in range(rounds):
            for name, figures in found.items():
                checkout = before if name == "before" else None
                figures.append(
                    run(url, messages, observed=name == "one observer", checkout=checkout)
                )
    print(f"CPython {sys.version.split()[0]}, {os.cpu_count()} cores, medians of {rounds} rounds")
    print(f"{'':24}" + "".join(f"{name:>14}" for name in found) + "   to no observer")
    for case in CASES:
        row, ratios = "", ""
        for name, figures in found.items():
            row += f"{statistics.median(each[case] for each in figures):14,.0f}"
            if name != "no observer":
                ratio = statistics.median(
                    each[case] / plain[case]
                    for each, plain in zip(figures, found["no observer"], strict=True)
                )
                ratios += f"{ratio:8.2f}x {name}"
        print(f"{case:24}{row}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--before", type=Path, help="a checkout to measure as well")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--observed", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.url is None:
        compare(given.rounds, given.messages, given.before)
    else:
        print(json.dumps(asyncio.run(measure(given.url, given.messages, observed=given.observed))))


if __name__ == "__main__":
    main()
