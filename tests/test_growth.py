"""Growth and memory are measured; what is not to grow does not, in calls rather than in time."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.curves import line_plot
from benchmarks.growth import FIGURES, Curve, Figure, measure, table, write
from benchmarks.growth_work import Work
from benchmarks.memory import flat_table, held_by_machine, held_table, stays
from benchmarks.memory_ended import ENDED
from benchmarks.memory_held import BY_MACHINES

CURVES = {f"{figure.name}: {curve.name}": curve for figure in FIGURES for curve in figure.curves}
SVG = "{http://www.w3.org/2000/svg}"


# Plots


def drawn(plot: str) -> list[list[tuple[float, float]]]:
    """The points of each line of a plot."""
    found = ElementTree.fromstring(plot).iter(f"{SVG}polyline")
    return [
        [(float(x), float(y)) for x, _, y in (place.partition(",") for place in places.split())]
        for places in (line.attrib["points"] for line in found)
    ]


def texts(plot: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(plot).iter(f"{SVG}text")]


def test_decades_are_as_wide_as_each_other_and_a_flat_line_is_flat() -> None:
    (line,) = drawn(line_plot("t", "x", "y", {"flat": [(1, 5), (10, 5), (100, 5)]}))
    (first, y), (second, _), (third, _) = line
    assert second - first == pytest.approx(third - second)
    assert {place for _, place in line} == {y}


def test_what_costs_more_is_drawn_higher() -> None:
    low, high = drawn(line_plot("t", "x", "y", {"a": [(1, 2)], "b": [(1, 200)]}))
    assert high[0][1] < low[0][1]


def test_a_plot_says_what_it_shows_whatever_the_names_are() -> None:
    plot = line_plot("A < B", "messages", "us", {"a & b": [(1, 3), (1_000_000, 3)]})
    assert {"A < B", "messages", "us", "a & b", "1", "1 k", "1 M", "10"} <= set(texts(plot))


def test_the_names_of_lines_that_end_in_one_place_stand_apart() -> None:
    names = [f"line {number}" for number in range(8)]
    plot = line_plot("t", "x", "y", {name: [(1, 1), (10, 1)] for name in names})
    found = ElementTree.fromstring(plot).iter(f"{SVG}text")
    places = sorted(float(text.attrib["y"]) for text in found if text.text in names)
    assert len(places) == len(names)
    assert min(below - above for above, below in pairwise(places)) >= 12


def test_a_plot_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a point"):
        line_plot("t", "x", "y", {"empty": []})


# Growth


@pytest.mark.parametrize("name", CURVES)
def test_each_curve_can_be_measured(name: str) -> None:
    curve = CURVES[name]
    sizes = (10,) if curve.sizes[0] == 10 else (1, 2)
    costs = measure(Curve(name, curve.prepare, sizes), rounds=1, seconds=1e-5)
    assert tuple(costs) == sizes
    assert min(costs.values()) > 0


def calls(work: Work) -> float:
    """Calls of functions for each message, C's own included."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    work.run()  # what is remembered from now on
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for _ in range(10):
            work.run()
    finally:
        sys.setprofile(before)
    return counted / work.messages / 10


@pytest.mark.parametrize(
    "name",
    [
        "subscriptions: Router, exact, one topic",
        "subscriptions: Router, wildcard, one topic",
        "subscriptions: Session, exact, one topic",
        "subscriptions: Session, wildcard, one topic",
        "subscribing: Router",
        "subscribing: Session",
        "subscribing: Router, publication after it",
        "pending: Session, latest answered",
        "pending: Router, full: oldest fails",
        "pending: Session, full: oldest dropped",
        "connections: Router",
        "connections: Router, connect to end",
    ],
)
def test_a_message_takes_as_many_calls_whatever_there_is_beside_it(name: str) -> None:
    prepare = CURVES[name].prepare
    assert calls(prepare(1000)) <= 1.1 * calls(prepare(1)) + 2


def test_a_table_compares_the_last_with_the_first() -> None:
    assert table({"a": {1: 2.0, 10: 3.0}, "b": {10: 1.5}}).splitlines() == [
        "| us a message | 1 | 10 | last / first |",
        "|---|---|---|---|",
        "| a | 2.00 | 3.00 | 1.50 x |",
        "| b |  | 1.50 | 1.00 x |",
    ]


def test_a_figure_is_written_as_a_plot_and_as_numbers(tmp_path: Path) -> None:
    figure = Figure("pending", "Requests", "requests that wait", ())
    write(figure, {"Router": {10: 2.0, 1: 1.25}}, tmp_path, rounds=3)
    document = json.loads((tmp_path / "pending.json").read_text())
    assert document["curves"] == {"Router": [[1, 1.25], [10, 2.0]]}
    assert document["rounds"] == 3
    assert "Requests" in texts((tmp_path / "pending.svg").read_text())


# Memory


@pytest.fixture
def traced() -> Iterator[None]:
    """What Python allocates is counted."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", BY_MACHINES)
def test_what_a_machine_holds_takes_memory(name: str) -> None:
    assert 100 < held_by_machine(name, 200)["bytes"] < 5000


@pytest.mark.parametrize("name", ENDED)
def test_whatever_is_made_comes_to_its_end(name: str) -> None:
    work = ENDED[name]()
    work.run()
    work.end()


@pytest.mark.usefixtures("traced")
def test_memory_is_looked_at_after_each_tenth_of_what_is_made_and_ended() -> None:
    samples = stays("machines, subscriptions", 1000)
    assert [made for made, _ in samples] == list(range(100, 1001, 100))
    assert all(size > 0 for _, size in samples)


def test_tables_of_memory_say_where_it_is_held_and_what_has_stayed() -> None:
    held = {"a connection": {"broker": {"traced": 3000.4, "resident": 4096.0}}}
    assert "| a connection | broker | 3,000 | 4,096 |" in held_table(held)
    flat = flat_table({"requests": [[100, 1048576], [1000, 1048576 + 900]]})
    assert "| requests | 1,000 | 1.00 | 1.00 | 1.00 |" in flat
