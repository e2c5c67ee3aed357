"""What a connection, a subscription and a pending request hold, and that nothing of them stays.

    python -m benchmarks.memory [--count 1000000] [--whole 100000] [--out docs/benchmarks/growth]

Each figure comes from processes of its own: once as the operating system counts (resident memory),
once as Python does (tracemalloc), which slows everything down and has memory of its own.  `--count`
is how many of each are made and ended in the machines, `--whole` through a client and a broker.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import platform
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from mb_broker import Broker

from .curves import Points, line_plot
from .growth import OUT
from .memory_ended import ENDED
from .memory_held import BY_CLIENTS, BY_MACHINES

__all__ = ["flat_table", "held_by_clients", "held_by_machine", "held_table", "main", "stays"]

# Made before the first look: imports, caches and the first arenas are nobody's share.
_BEFORE = 100
# Of connections; of the others, of which a broker takes 10,000 from a client.
_CONNECTIONS, _OTHERS = 1000, 9000
_SAMPLES = 10
_MEBIBYTE = 1024 * 1024
_MODULE = ("-m", "benchmarks.memory")

Held = dict[str, dict[str, dict[str, float]]]
"""Bytes of one, by what it is, by where it is held, by how that was counted."""


def used() -> int:
    """Bytes in use: those that Python has allocated where that is traced, else resident memory."""
    gc.collect()
    if tracemalloc.is_tracing():
        return tracemalloc.get_traced_memory()[0]
    size: int = psutil.Process().memory_info().rss
    return size


def held_by_machine(name: str, count: int) -> dict[str, float]:
    """Bytes of one of them."""
    hold = BY_MACHINES[name]
    first = hold(_BEFORE)
    before = used()
    second = hold(count)
    found = (used() - before) / count
    del first, second
    return {"bytes": found}


async def held_by_clients(name: str, count: int, *, traced: bool) -> dict[str, float]:
    """Bytes of one of them in this process, which has the clients, and in the broker's.

    And how much the broker's process has in all.
    """
    hold = BY_CLIENTS[name]
    with _broker(traced=traced) as (url, broker_used):
        async with hold(url, _BEFORE):
            mine, brokers = used(), broker_used()
        # The first are gone: what they had is there again for as many of the second.
        async with hold(url, count + _BEFORE):
            all_of_broker = broker_used()
            return {
                "client": (used() - mine) / count,
                "broker": (all_of_broker - brokers) / count,
                f"broker with {count + _BEFORE:,}, in all": all_of_broker,
            }


def stays(name: str, count: int) -> list[tuple[int, int]]:
    """The memory in use after each tenth of so many that were made and ended."""
    work = ENDED[name]()
    samples = []
    made = 0
    for tenth in range(1, _SAMPLES + 1):
        while made < count * tenth / _SAMPLES:
            work.run()
            made += work.messages
        samples.append((made, used()))
    work.end()
    return samples


def held_table(found: Held) -> str:
    """Markdown."""
    lines = ["| | where | traced, bytes | resident, bytes |", "|---|---|---|---|"]
    for name, places in found.items():
        for place, counted in places.items():
            cells = f"{counted['traced']:,.0f} | {counted['resident']:,.0f}"
            lines.append(f"| {name} | {place} | {cells} |")
    return "\n".join([*lines, ""])


def flat_table(found: Mapping[str, Sequence[Sequence[int]]]) -> str:
    """Markdown; the last column is what the last nine tenths have added, for each that was made."""
    lines = [
        "| made and ended | count | MiB after a tenth | MiB at the end | bytes of each |",
        "|---|---|---|---|---|",
    ]
    for name, samples in found.items():
        (made, first), (count, last) = samples[0], samples[-1]
        lines.append(
            f"| {name} | {count:,} | {first / _MEBIBYTE:.2f} | {last / _MEBIBYTE:.2f} "
            f"| {(last - first) / (count - made):.2f} |"
        )
    return "\n".join([*lines, ""])


@contextmanager
def _broker(*, traced: bool) -> Iterator[tuple[str, Callable[[], int]]]:
    """A broker in a process of its own: its URL, and a function that asks what it uses."""
    command = [sys.executable, *_MODULE, "--broker", *(["--traced"] if traced else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines, say = process.stdout, process.stdin

        def ask() -> int:
            print(file=say, flush=True)
            return int(lines.readline())

        yield lines.readline().strip(), ask
        say.close()


async def _serve() -> None:
    """Say at each line of the input what is used; end at the input's end."""
    async with Broker("tcp://127.0.0.1:0") as broker:
        print(broker.url, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(used(), flush=True)


def _in_a_process(*arguments: str) -> Any:
    """The JSON that this module prints, run with these arguments."""
    done = subprocess.run(
        [sys.executable, *_MODULE, *arguments], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def _all_held() -> Held:
    found: Held = {}
    for name in (*BY_MACHINES, *BY_CLIENTS):
        count = _CONNECTIONS if "a connection" in name else _OTHERS
        for how in ("traced", "resident"):
            options = ["--traced"] if how == "traced" else []
            figures = _in_a_process("--held", name, "--count", str(count), *options)
            for place, value in figures.items():
                where = "machine" if place == "bytes" else place
                found.setdefault(name, {}).setdefault(where, {})[how] = round(value, 1)
    return found


def _all_ended(count: int, whole: int) -> dict[str, list[list[int]]]:
    found = {}
    for name in ENDED:
        wanted = whole if name.startswith("memory://") else count
        found[name] = _in_a_process("--ended", name, "--count", str(wanted))
    return found


def _report(count: int, whole: int, out: Path) -> None:
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores", flush=True)
    held = _all_held()
    print(f"\n{held_table(held)}", flush=True)
    ended = _all_ended(count, whole)
    print(flat_table(ended))
    out.mkdir(parents=True, exist_ok=True)
    document = {"python": platform.python_version(), "held": held, "ended": ended}
    (out / "memory.json").write_text(json.dumps(document, indent=1) + "\n")
    lines: dict[str, Points] = {
        name: [(made, size / _MEBIBYTE) for made, size in samples]
        for name, samples in ended.items()
    }
    title = "Resident memory, while things are made and ended"
    (out / "memory.svg").write_text(line_plot(title, "made and ended", "MiB", lines))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--whole", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=OUT, help="a folder for the plot and JSON")
    # What the processes are told that it starts.
    parser.add_argument("--held", help=argparse.SUPPRESS)
    parser.add_argument("--ended", help=argparse.SUPPRESS)
    parser.add_argument("--broker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    # Time-outs that are made by the thousand need not be read.
    for logger in ("mb_broker", "mb_core"):
        logging.getLogger(logger).addHandler(logging.NullHandler())
    if given.traced:
        tracemalloc.start()
    if given.broker:
        asyncio.run(_serve())
    elif given.held in BY_MACHINES:
        print(json.dumps(held_by_machine(given.held, given.count)))
    elif given.held is not None:
        print(
            json.dumps(asyncio.run(held_by_clients(given.held, given.count, traced=given.traced)))
        )
    elif given.ended is not None:
        print(json.dumps(stays(given.ended, given.count)))
    else:
        _report(given.count, given.whole, given.out)


if __name__ == "__main__":
    main()
