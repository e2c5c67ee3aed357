"""How the cost of a message grows, with what: subscriptions, requests, connections, bytes, copies.

    python -m benchmarks.growth [--only FIGURE] [--rounds 20] [--out docs/benchmarks/growth]
    python -m benchmarks.growth --profile "Router, exact, all topics" --size 100000

The sizes of a curve are measured in turns, in one run, and each point is the least of its rounds:
on a machine that others use as well, what is least is what the code costs.  Writes a table, the
figures as JSON and a plot of each; `--profile` says where the time of one point goes.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import logging
import os
import platform
import pstats
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import growth_machines as machines
from . import growth_whole as whole
from .curves import line_plot
from .growth_work import Work, topic, wildcard

__all__ = ["FIGURES", "Curve", "Figure", "main", "measure", "table"]

OUT = Path(__file__).parent.parent / "docs" / "benchmarks" / "growth"

# So long is a round: much against the clock, little against the scheduler.
_SECONDS = 0.02

Costs = dict[int, float]
"""Microseconds a message, by size."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: the cost of a message at each size."""

    name: str
    prepare: Callable[[int], Work]
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Figure:
    """Lines that belong together, and are drawn together."""

    name: str
    title: str
    x_label: str
    curves: tuple[Curve, ...]


# 4096 is what a HeaderReader remembers.
_SUBSCRIPTIONS = (1, 10, 100, 1_000, 4_000, 5_000, 10_000, 100_000)
_PENDING = (1, 10, 100, 1_000, 10_000)
_THOUSAND = (1, 10, 100, 1_000)
_BYTES = (10, 100, 1_000, 10_000, 60_000, 100_000, 1_048_576)

FIGURES = (
    Figure(
        "subscriptions",
        "A publication, against the subscriptions in force",
        "subscriptions",
        tuple(
            Curve(f"{machine}, {kind}, {topics}", receives(pattern, spread=spread), _SUBSCRIPTIONS)
            for machine, receives in (
                ("Router", machines.router_receives),
                ("Session", machines.session_receives),
            )
            for kind, pattern in (("exact", topic), ("wildcard", wildcard))
            for topics, spread in (("one topic", False), ("all topics", True))
        ),
    ),
    Figure(
        "subscribing",
        "A subscription made and ended, against those in force",
        "subscriptions",
        (
            Curve("Router", machines.router_subscribes, _SUBSCRIPTIONS),
            Curve("Session", machines.session_subscribes, _SUBSCRIPTIONS),
            Curve("Router, publication after it", machines.router_looks_up, _SUBSCRIPTIONS),
        ),
    ),
    Figure(
        "pending",
        "A request and its response, against those that wait",
        "requests that wait",
        (
            Curve("Session, oldest answered", machines.session_asks(oldest=True), _PENDING),
            Curve("Session, latest answered", machines.session_asks(oldest=False), _PENDING),
            Curve("Router, oldest answered", machines.router_asks, _PENDING),
            Curve("Router, full: oldest fails", machines.full_router_asks, _PENDING),
            Curve("Session, full: oldest dropped", machines.session_drops, _PENDING),
        ),
    ),
    Figure(
        "connections",
        "A publication of each client in turn, against the clients",
        "connections",
        (
            Curve("Router", machines.router_serves, _THOUSAND),
            Curve("Router, connect to end", machines.router_connects, _THOUSAND),
            Curve("memory://, to the handler", whole.clients_publish, _THOUSAND),
        ),
    ),
    Figure(
        "payload",
        "A message, against the bytes of its payload",
        "bytes",
        (
            Curve("Encoder writes", machines.encoder_writes, _BYTES),
            Curve("Router passes on", machines.router_passes, _BYTES),
            Curve("Session receives", machines.session_reads(decoded=False), _BYTES),
            Curve("Session, decoded", machines.session_reads(decoded=True), _BYTES),
            Curve("request over TCP and back", whole.tcp_echoes, _BYTES),
        ),
    ),
    Figure(
        "fan-out",
        "A copy of a publication, against the subscribers",
        "subscribers",
        (
            Curve("Router", machines.router_fans_out(changed=False), _THOUSAND),
            Curve("Router, after a change", machines.router_fans_out(changed=True), _THOUSAND),
            Curve("memory://, to the handlers", whole.fans_out, _THOUSAND),
        ),
    ),
)


def measure(curve: Curve, rounds: int, seconds: float = _SECONDS) -> Costs:
    """The cost at each size of a curve: the least of the rounds, in microseconds a message."""
    works = {size: curve.prepare(size) for size in curve.sizes}
    with _frozen():
        repeats = {size: _repeats(work, seconds) for size, work in works.items()}
        best = dict.fromkeys(works, float("inf"))
        for _ in range(rounds):
            for size, work in works.items():
                spent = _time(work, repeats[size]) / (repeats[size] * work.messages)
                best[size] = min(best[size], spent * 1e6)
    for work in works.values():
        work.end()
    return best


def profile(curve: Curve, size: int) -> None:
    """Print where the time of one point goes."""
    work = curve.prepare(size)
    repeats = _repeats(work, 0.5)
    with _frozen(), cProfile.Profile() as profiler:
        for _ in range(repeats):
            work.run()
    work.end()
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(15)


def table(found: dict[str, Costs]) -> str:
    """Markdown; the last column is the cost at the largest size as a ratio to the smallest."""
    sizes = sorted({size for costs in found.values() for size in costs})
    lines = [
        "| us a message | " + " | ".join(f"{size:,}" for size in sizes) + " | last / first |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for name, costs in found.items():
        cells = [f"{costs[size]:,.2f}" if size in costs else "" for size in sizes]
        ratio = costs[max(costs)] / costs[min(costs)]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {ratio:.2f} x |")
    return "\n".join([*lines, ""])


def write(figure: Figure, found: dict[str, Costs], out: Path, rounds: int) -> None:
    """The plot and the JSON of a figure, with what they were measured on."""
    out.mkdir(parents=True, exist_ok=True)
    lines = {name: sorted(costs.items()) for name, costs in found.items()}
    plot = line_plot(figure.title, figure.x_label, "microseconds", lines)
    (out / f"{figure.name}.svg").write_text(plot)
    document = {
        "title": figure.title,
        "x": figure.x_label,
        "unit": "us",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "rounds": rounds,
        "curves": {
            name: [[size, round(cost, 3)] for size, cost in line] for name, line in lines.items()
        },
    }
    (out / f"{figure.name}.json").write_text(json.dumps(document, indent=1) + "\n")


@contextmanager
def _frozen() -> Iterator[None]:
    """What was prepared is not looked through for garbage while something else is measured."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _repeats(work: Work, seconds: float) -> int:
    """How often it is done in about so many seconds; the first time is to warm up."""
    work.run()
    repeats = 1
    while (spent := _time(work, repeats)) < seconds / 2:
        repeats = max(2 * repeats, int(repeats * seconds / max(spent, 1e-6)) // 2)
    return max(1, int(repeats * seconds / spent))


def _time(work: Work, repeats: int) -> float:
    run = work.run
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    names = [figure.name for figure in FIGURES]
    parser.add_argument("--only", action="append", choices=names, help="one figure of them")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT, help="a folder for plots and JSON")
    parser.add_argument("--profile", metavar="CURVE", help="profile this curve's work instead")
    parser.add_argument("--size", type=int, default=1, help="at this size")
    given = parser.parse_args(arguments)
    # That it is full, a Router says in the log.
    logging.getLogger("mb_broker").addHandler(logging.NullHandler())
    if given.profile is not None:
        curves = {curve.name: curve for figure in FIGURES for curve in figure.curves}
        if given.profile not in curves:
            parser.error(f"no such curve; there are: {'; '.join(curves)}")
        profile(curves[given.profile], given.size)
        return
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores, least of {given.rounds}")
    for figure in FIGURES:
        if given.only is None or figure.name in given.only:
            found = {curve.name: measure(curve, given.rounds) for curve in figure.curves}
            write(figure, found, given.out, given.rounds)
            print(f"\n{figure.title}\n\n{table(found)}")


if __name__ == "__main__":
    main()
