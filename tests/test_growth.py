"""Growth and memory are measured; what must not grow doesn't, in calls rather than in time."""

from __future__ import annotations

import sys

import pytest
from benchmarks.growth import FIGURES, Curve, measure, table
from benchmarks.growth_cases import Work
from benchmarks.memory import CLIENTS, MACHINES, of_client, of_machine
from benchmarks.memory import table as table_of_memory

CURVES = {f"{figure.name}: {curve.name}": curve for figure in FIGURES for curve in figure.curves}


# Growth


@pytest.mark.parametrize("name", CURVES)
def test_each_curve_can_be_measured(name: str) -> None:
    curve = CURVES[name]
    sizes = (10,) if curve.sizes[0] == 10 else (1, 2)
    costs = measure(Curve(name, curve.prepare, sizes), rounds=1, seconds=1e-5)
    assert tuple(costs) == sizes
    assert min(costs.values()) > 0


def calls(work: Work) -> float:
    """Count the calls of functions, also those written in C."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    work.run()  # fills the caches
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for _ in range(10):
            work.run()
    finally:
        sys.setprofile(before)
    return counted / work.parts / 10


@pytest.mark.parametrize(
    "name",
    [
        "subscriptions: Router, exact, one topic",
        "subscriptions: Router, wildcard, one topic",
        "subscriptions: Session, exact, one topic",
        "subscriptions: Session, wildcard, one topic",
        "subscribing: Router, subscribe and unsubscribe",
        "subscribing: Session, subscribe and unsubscribe",
        "subscribing: Router, a change and a publication",
        "pending: Session, answering the latest",
        "pending: Router, displacing the oldest",
        "pending: Session, dropping the oldest publication",
        "connections: Router, a publication",
        "connections: Router, a whole connection",
    ],
)
def test_a_message_takes_as_many_calls_whatever_there_is_beside_it(name: str) -> None:
    prepare = CURVES[name].prepare
    assert calls(prepare(1000)) <= 1.1 * calls(prepare(1)) + 2


def test_a_table_compares_the_last_with_the_first() -> None:
    assert table({"a": {1: 2.0, 10: 3.0}, "b": {10: 1.5}}, "copy").splitlines() == [
        "| µs per copy | 1 | 10 | last / first |",
        "|---|---|---|---|",
        "| a | 2.00 | 3.00 | 1.50 x |",
        "| b |  | 1.50 | 1.00 x |",
    ]


# Memory


@pytest.mark.parametrize("name", MACHINES)
def test_what_a_machine_holds_takes_memory(name: str) -> None:
    assert 100 < of_machine(name, 200)["state machine"] < 5000


@pytest.mark.parametrize("name", CLIENTS)
def test_what_clients_hold_is_measured_in_both_processes(name: str) -> None:
    client, broker, in_all = of_client(name, 20)
    assert (client, broker) == ("client", "broker")
    assert in_all == f"the whole broker, with 120 {name.removeprefix('a ')}s"


def test_a_table_says_where_it_is_held() -> None:
    text = table_of_memory({"a connection": {"client": 3000.4, "broker": 4096.0}})
    assert "| a connection | client | 3,000 |\n| a connection | broker | 4,096 |\n" in text
