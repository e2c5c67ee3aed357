"""The suite of benchmarks measures and reports.  How fast anything is, is not asserted here."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from benchmarks import capacity, processes, report, rounds
from benchmarks.cases import CASES, PUBLISH, REQUEST_P50, check
from benchmarks.contenders import BY_NAME, CONTENDERS, Contender, Program, bare
from benchmarks.goals import GOALS, Goal
from benchmarks.plots import draw_bars, draw_lines
from benchmarks.spread import Spread, ratio, spread
from benchmarks.workload import DOCUMENT, encode

SVG = "{http://www.w3.org/2000/svg}"
NAMES = [case.name for case in CASES]
FEW = 640
"""Publications: of the requests, two in each of the 64 tasks or threads."""


class Recording(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))


def round_of(publish: float, latency: float = 100.0) -> dict[str, float]:
    return {case.name: publish if case.more_is_better else latency for case in CASES}


def results(**found: list[dict[str, float]]) -> report.Results:
    named = {name.replace("_", " "): figures for name, figures in found.items()}
    return report.Results("3.13.0", 2, 50_000, {"nats-py": "2.16.0"}, named)


@pytest.mark.parametrize(
    "name", ["mb memory", "mb memory, trio", "mb_sync tcp, service apart", "asyncio, bare"]
)
def test_a_round_finds_every_figure(name: str) -> None:
    found = BY_NAME[name].measure(FEW)
    assert list(found) == NAMES
    assert all(figure > 0 for figure in found.values())


def test_the_capacity_of_the_broker_is_measured_without_a_client() -> None:
    assert capacity.measure("mb", 2_000) > 0


def test_the_bare_server_asks_for_data_only_when_both_are_accepted() -> None:
    first, second = (Recording() for _ in range(2))
    both: list[bare.PassOn] = []
    bare.PassOn(both).connection_made(first)
    assert first.written == []
    bare.PassOn(both).connection_made(second)
    assert (first.written, second.written) == ([bare.READY], [bare.READY])
    both[0].data_received(b"there")
    both[1].data_received(b"back")
    assert (first.written[1:], second.written[1:]) == ([b"back"], [b"there"])


def test_a_broker_that_closes_the_connection_ends_the_measurement() -> None:
    near, far = socket.socketpair()
    with near:
        far.close()
        with pytest.raises(RuntimeError, match="closed the connection"):
            capacity._read_until(near, b"PONG", 1)
        with pytest.raises(RuntimeError, match="closed the connection"):
            capacity._next_message(near)


def test_each_round_has_a_process_of_its_own() -> None:
    said: list[str] = []
    found = rounds.run([BY_NAME["mb tcp"]], 1, FEW, said.append)
    assert [list(each) for each in found["mb tcp"]] == [NAMES]
    assert said == ["round 1 of 1"]


def test_who_is_not_installed_is_skipped_with_the_package_that_has_it() -> None:
    absent = Contender("absent", "mb", program=Program("no-such-server", "some-package"))
    said: list[str] = []
    assert rounds.present([absent, BY_NAME["mb tcp"]], said.append) == [BY_NAME["mb tcp"]]
    (line,) = said
    assert line.startswith("absent: skipped")
    assert "apt-get install some-package" in line


def test_a_library_that_is_not_installed_is_skipped_too() -> None:
    missing = Contender("absent", "mb", distributions=("no-such-distribution",)).missing()
    assert missing is not None
    assert "no-such-distribution is not installed" in missing


def test_goals_and_contenders_know_each_other() -> None:
    assert {goal.contender for goal in GOALS} | {goal.baseline for goal in GOALS} <= set(BY_NAME)
    assert len(BY_NAME) == len(CONTENDERS)


def test_the_payload_is_as_long_as_the_documentation_says() -> None:
    assert len(encode(DOCUMENT)) == 111


def test_a_peer_that_changes_the_payload_is_not_measured() -> None:
    check(DOCUMENT)
    with pytest.raises(RuntimeError, match="arrived"):
        check(DOCUMENT, DOCUMENT | {"id": 1})


def test_a_server_that_ends_before_it_serves_is_reported_with_its_words() -> None:
    command = (sys.executable, "-c", "print('port taken')")
    with pytest.raises(RuntimeError, match="port taken"), processes.server(*command, ready="ready"):
        pass


def test_a_spread_is_the_median_and_its_quartiles() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
    assert Spread(200.0, 190.0, 210.0).percent == 5


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine was half as fast in the second round: of no matter to the ratio.
    mine, theirs = [round_of(200), round_of(100)], [round_of(100), round_of(50)]
    assert ratio(mine, theirs, PUBLISH.name) == Spread(2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("goal", "reached", "missed"),
    [
        (Goal("a", "b", PUBLISH, 2.0), 2.0, 1.9),
        (Goal("a", "b", REQUEST_P50, 0.6), 0.6, 0.7),
    ],
)
def test_a_goal_is_a_floor_for_rates_and_a_ceiling_for_times(
    goal: Goal, reached: float, missed: float
) -> None:
    assert goal.met(spread([reached]))
    assert not goal.met(spread([missed]))


def test_the_tables_have_medians_ratios_and_goals() -> None:
    text = report.tables(results(mb_tcp=[round_of(250_000, 90)], **{"nats-py": [round_of(1e5)]}))
    assert "CPython 3.13.0, 2 cores, nats-py 2.16.0" in text
    assert "| mb tcp | 250.0 k ± 0 % |" in text
    assert "| mb tcp | 2.50 x (2.50 to 2.50) |" in text
    goals = [line for line in text.splitlines() if "mb tcp to nats-py" in line]
    assert [line.split("|")[-2].strip() for line in goals] == ["no", "yes", "yes", "no"]


def test_without_the_baseline_there_are_no_ratios() -> None:
    text = report.tables(results(mb_tcp=[round_of(1.0)]))
    assert "Ratios" not in text
    assert "Goals" not in text


def test_a_report_is_tables_json_and_a_plot_of_each_case(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    found = results(mb_tcp=[round_of(2.0), round_of(3.0)])
    report.write(found, tmp_path / "new")
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {"results.json", "results.md", *(f"{case.file}.svg" for case in CASES)}
    read = json.loads((tmp_path / "new" / "results.json").read_text())
    assert report.Results(**read) == found


# The plots


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(path).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("more_is_better", "order"), [(True, ["fast", "slow"]), (False, ["slow", "fast"])]
)
def test_a_plot_has_the_best_on_top(more_is_better: bool, order: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "plot.svg"
    figures = {"slow": spread([50.0]), "fast": Spread(100.0, 90.0, 120.0)}
    draw_bars(path, "a & b", figures, ours={"fast"}, more_is_better=more_is_better)
    drawn = texts(path)
    assert any("a & b" in text for text in drawn)
    # matplotlib draws labels from the bottom up.
    assert [text for text in drawn if text in order] == order[::-1]
    assert {"50", "100"} <= set(drawn)


def test_lines_are_drawn_with_their_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    paths = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for path in paths:
        draw_lines(path, "Growth", "messages", {"flat": [(1, 3), (1000, 3)], "a & b": [(1, 5)]})
    assert {"Growth", "messages", "microseconds", "flat", "a & b"} <= set(texts(paths[0]))
    assert paths[0].read_bytes() == paths[1].read_bytes()
