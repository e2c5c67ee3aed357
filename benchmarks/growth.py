"""How the cost of a message grows with subscriptions, requests, connections, bytes and copies.

    python -m benchmarks.growth [--only FIGURE] [--rounds 20] [--out docs/benchmarks/growth]

The sizes of a curve are measured alternately, in one run, and each point is the minimum of its
rounds: on a shared machine, the minimum is what the code costs.  Prints a table of each figure and
draws it.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import growth_cases as cases
from .growth_cases import Work, topic, wildcard
from .plots import draw_lines

__all__ = ["FIGURES", "Curve", "Figure", "main", "measure", "table"]

OUT = Path(__file__).parent.parent / "docs" / "benchmarks" / "growth"

# Duration of a round: long enough for the clock's resolution, short enough that the scheduler
# rarely interrupts it.
_SECONDS = 0.02

Costs = dict[int, float]
"""Microseconds, by size."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: the cost at each size."""

    name: str
    prepare: Callable[[int], Work]
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Figure:
    """Lines that are drawn together."""

    name: str
    title: str
    unit: str
    """What the costs are for: a message, or what its rows describe."""
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
        "A publication, by number of subscriptions",
        "publication",
        "subscriptions",
        tuple(
            Curve(f"{machine}, {kind}, {topics}", receives(pattern, spread=spread), _SUBSCRIPTIONS)
            for machine, receives in (
                ("Router", cases.router_receives),
                ("Session", cases.session_receives),
            )
            for kind, pattern in (("exact", topic), ("wildcard", wildcard))
            for topics, spread in (("one topic", False), ("all topics", True))
        ),
    ),
    Figure(
        "subscribing",
        "Subscribing and unsubscribing, by number of subscriptions",
        "operation",
        "subscriptions",
        (
            Curve("Router, subscribe and unsubscribe", cases.router_subscribes, _SUBSCRIPTIONS),
            Curve("Session, subscribe and unsubscribe", cases.session_subscribes, _SUBSCRIPTIONS),
            Curve("Router, a change and a publication", cases.router_looks_up, _SUBSCRIPTIONS),
        ),
    ),
    Figure(
        "pending",
        "A request and a response, by number of pending requests",
        "operation",
        "pending requests",
        (
            Curve("Session, answering the oldest", cases.session_asks(oldest=True), _PENDING),
            Curve("Session, answering the latest", cases.session_asks(oldest=False), _PENDING),
            Curve("Router, answering the oldest", cases.router_asks, _PENDING),
            Curve("Router, displacing the oldest", cases.full_router_asks, _PENDING),
            Curve("Session, dropping the oldest publication", cases.session_drops, _PENDING),
        ),
    ),
    Figure(
        "connections",
        "A publication from each client in turn, by number of clients",
        "operation",
        "connections",
        (
            Curve("Router, a publication", cases.router_serves, _THOUSAND),
            Curve("Router, a whole connection", cases.router_connects, _THOUSAND),
        ),
    ),
    Figure(
        "payload",
        "A message, by size of its payload",
        "message",
        "bytes",
        (
            Curve("Encoder writes", cases.encoder_writes, _BYTES),
            Curve("Router passes on", cases.router_passes, _BYTES),
            Curve("Session receives", cases.session_reads(decoded=False), _BYTES),
            Curve("Session, decoded", cases.session_reads(decoded=True), _BYTES),
        ),
    ),
    Figure(
        "fan-out",
        "A copy of a publication, by number of subscribers",
        "copy",
        "subscribers",
        (
            Curve("Router", cases.router_fans_out(changed=False), _THOUSAND),
            Curve("Router, after a change", cases.router_fans_out(changed=True), _THOUSAND),
        ),
    ),
)


def measure(curve: Curve, rounds: int, seconds: float = _SECONDS) -> Costs:
    """Return the cost at each size of a curve: the minimum of the rounds, in microseconds."""
    works = {size: curve.prepare(size) for size in curve.sizes}
    with _frozen():
        repeats = {size: _repeats(work, seconds) for size, work in works.items()}
        best = dict.fromkeys(works, float("inf"))
        for _ in range(rounds):
            for size, work in works.items():
                spent = _time(work, repeats[size]) / (repeats[size] * work.parts)
                best[size] = min(best[size], spent * 1e6)
    return best


def table(found: dict[str, Costs], unit: str) -> str:
    """Return a Markdown table; its last column compares the largest size with the smallest."""
    sizes = sorted({size for costs in found.values() for size in costs})
    lines = [
        f"| µs per {unit} | " + " | ".join(f"{size:,}" for size in sizes) + " | last / first |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for name, costs in found.items():
        cells = [f"{costs[size]:,.2f}" if size in costs else "" for size in sizes]
        ratio = costs[max(costs)] / costs[min(costs)]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {ratio:.2f} x |")
    return "\n".join([*lines, ""])


@contextmanager
def _frozen() -> Iterator[None]:
    """Exclude what was prepared from garbage collection while something else is measured."""
    was_frozen = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not was_frozen:  # keep what the caller froze: collections would take longer
            gc.unfreeze()


def _repeats(work: Work, seconds: float) -> int:
    """Return how often it runs in about this many seconds; the first run is a warm-up."""
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
    parser.add_argument("--only", action="append", choices=names, help="measure only this figure")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT, help="a folder for the plots")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    # A full Router logs each request that it displaces.
    logging.getLogger("mb_broker").addHandler(logging.NullHandler())
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores, minimum of {given.rounds}")
    for figure in FIGURES:
        if given.only is None or figure.name in given.only:
            found = {curve.name: measure(curve, given.rounds) for curve in figure.curves}
            lines = {name: sorted(costs.items()) for name, costs in found.items()}
            draw_lines(given.out / f"{figure.name}.svg", figure.title, figure.x_label, lines)
            print(f"\n{figure.title}\n\n{table(found, figure.unit)}")


if __name__ == "__main__":
    main()
