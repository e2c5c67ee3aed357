"""Figures that pages repeat are those of the tables in docs/performance.md."""

from __future__ import annotations

import re

import pytest

from .pages import ROOT

PERFORMANCE = (ROOT / "docs" / "performance.md").read_text()
COMPARISON = (ROOT / "docs" / "comparison.md").read_text()
SUMMARY = " ".join(PERFORMANCE.partition("## How it is measured")[0].split())


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row, by the first one."""
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        first, *others = line.split(" | ")
        found.setdefault(first, others)
    return found


def number(cell: str) -> float:
    """`341.4 k ± 1 %`, `164 ± 2 %` and `4,799 ± 2 %` as numbers."""
    value, thousands = re.match(r"([\d.,]+)( k)?", cell).groups()  # type: ignore[union-attr]
    return float(value.replace(",", "")) * (1000 if thousands else 1)


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("MB, TCP", "mb tcp"),
        ("nats-py", "nats-py"),
        ("redis-py", "redis-py"),
        ("aiomqtt", "aiomqtt"),
    ],
)
def test_the_comparison(name: str, measured: str) -> None:
    handled, _, median, _, in_flight = map(number, rows(PERFORMANCE)[measured])
    shown = rows(COMPARISON.partition("## Speed")[2])[name]
    for cell, figure in zip(shown, [handled, median, in_flight], strict=True):
        assert number(cell) == pytest.approx(figure, rel=0.01)


def test_the_summary() -> None:
    table = rows(PERFORMANCE)
    handled, _, median, slow, in_flight = map(number, table["mb tcp"])
    assert f"takes {median:.0f} µs" in SUMMARY
    assert f"{slow:.0f} µs at the 99th" in SUMMARY
    for peer in ("nats-py", "redis-py", "aiomqtt"):
        assert f"{peer} {number(table[peer][2]):.0f} µs" in SUMMARY.replace("takes ", "")
    ratio = in_flight / number(table["nats-py"][4])
    assert f"{ratio:.1f} times as many as with nats-py" in SUMMARY
    ratio = handled / number(table["nats-py"][0])
    assert f"{ratio:.1f} times as many as with nats-py" in SUMMARY
    assert f"**{handled / 1000:.0f},000 messages a second**" in SUMMARY
    assert f"**{in_flight / 1000:.0f},000 requests a second**" in SUMMARY
    for ratio in (in_flight / number(table["aiomqtt"][4]), handled / number(table["aiomqtt"][0])):
        assert f"{ratio:.0f} times as many as with aiomqtt" in SUMMARY
    imported = number(table["`import mb_client`"][0])
    assert f"`import mb_client` takes {imported:.0f} ms" in SUMMARY
