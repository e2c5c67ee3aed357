"""The dashboard, the alerts and docs/monitoring.md name metrics that the broker has."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.request import urlopen

import pytest

import mb_broker

from .programs import EXAMPLES

FOLDER = EXAMPLES / "monitoring"
PAGE = (EXAMPLES.parent / "docs" / "monitoring.md").read_text()
ALERTS = (FOLDER / "alerts.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())


@pytest.fixture(scope="module")
def served() -> dict[str, str]:
    """The type of each metric, by the name of its samples."""
    pytest.importorskip("psutil")
    with (
        mb_broker.running("ws://127.0.0.1:0") as broker,
        urlopen(f"http{broker.url.removeprefix('ws')}/metrics") as answer,
    ):
        text = answer.read().decode()
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    rules = re.findall(r"expr:\s+(?:>\n)?((?:.|\n)*?)\n +(?:for|annotations):", ALERTS)
    assert len(rules) == ALERTS.count("- alert:")
    return panels + rules


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bmb_[a-z_]+\b", text)) - {"mb_client", "mb_broker", "mb_sync"}


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_what_the_broker_has(
    expression: str, served: dict[str, str]
) -> None:
    names = names_in(expression)
    assert names or expression.startswith("up{")
    assert names <= set(served)
    for name in names:
        over_time = re.search(rf"(rate|increase)\({name}\b", expression) is not None
        assert over_time is (served[name] == "counter")
    assert expression.count("(") == expression.count(")")


def test_the_page_explains_every_metric(served: dict[str, str]) -> None:
    table = PAGE.partition("## All metrics")[2].partition("## Your own")[0]
    explained = names_in(table) - {"mb_system_", "mb_process_"}
    explained.add("mb_router_message_size_max")  # written as `_max`
    rates = {name for name in served if re.search(r"_rate(_|$)", name)}
    assert explained <= set(served)
    assert set(served) - rates == explained - rates
    for row in re.findall(r"^\| (`mb_.*?) \| (\w+) \|", table, re.MULTILINE):
        assert {served[name] for name in names_in(row[0])} == {row[1]}


def test_the_page_has_the_alerts_and_the_configuration() -> None:
    assert re.findall(r"^\| (MB\w+) \|", PAGE, re.M) == re.findall(r"alert: (\w+)", ALERTS)
    assert (FOLDER / "prometheus.yml").read_text() in PAGE


def test_the_dashboard_can_be_imported() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "instance"]
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert all(each["datasource"]["uid"] == "${datasource}" for each in panel["targets"])
