"""`mb metrics`: which, how they read, and again and again."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_client import MessageBrokerClient
from mb_tools.commands import metrics
from mb_tools.commands.metrics import matching, value_text

METRICS = {
    "router.message.count": {"name": "router.message.count", "type": "gauge", "value": 3},
    "process.uptime": {"name": "process.uptime", "type": "uptime", "value": 1.5},
    "plain": 7,
}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], ["plain", "process.uptime", "router.message.count"]),
        (["router.*"], ["router.message.count"]),
        (["PLAIN", "*.uptime"], ["plain", "process.uptime"]),
        (["router"], []),
    ],
)
def test_metrics_are_chosen_by_pattern(patterns: list[str], names: list[str]) -> None:
    assert [metric["name"] for metric in matching(METRICS, patterns)] == names


def test_a_bare_value_is_a_metric_too() -> None:
    assert matching(METRICS, ["plain"]) == [{"name": "plain", "value": 7}]


@pytest.mark.parametrize(
    ("name", "kind", "value", "text"),
    [
        ("router.message.count", "gauge", 1_234_567, "1,234,567"),
        ("router.message.size.avg", "average", 118.25, "118.25"),
        ("router.message.rate", "rate", 12_345.5, "12,345.5 /s"),
        ("router.message.rate.error", None, 0, "0 /s"),
        ("process.cpu.percent", "percent", 0.1234, "12.3 %"),
        ("process.memory.percent", None, 1, "100.0 %"),
        ("process.memory.bytes", "gauge", 512, "512 B"),
        ("process.memory.bytes", "gauge", 50 * 1024 * 1024, "50.0 MiB"),
        ("system.memory.bytes", "gauge", 3 * 1024**5, "3072.0 TiB"),
        ("process.uptime", "uptime", 3_725.9, "1h 02m"),
        ("system.uptime", None, 90_000, "1d 01h"),
        ("a", None, None, "-"),
        ("a", None, "text", "text"),
        ("a", None, True, "True"),
    ],
)
def test_a_value_reads_as_its_type(name: str, kind: str | None, value: object, text: str) -> None:
    assert value_text({"name": name, "type": kind, "value": value}) == text


def test_metrics_are_lines_of_json_on_a_pipe(mb: Any) -> None:
    done = mb("metrics", "router.message.*", "Connection.Active")
    assert (done.returncode, done.stderr) == (0, "")
    metrics = [json.loads(line) for line in done.stdout.splitlines()]
    names = [metric["name"] for metric in metrics]
    assert names == sorted(names)
    assert {"connection.active", "router.message.count", "router.message.rate"} <= set(names)
    assert set(metrics[0]) == {"name", "type", "timestamp", "value"}


def test_metrics_are_a_table_on_a_terminal(mb: Any) -> None:
    status, text = mb.on_terminal("metrics", "router.message.*", "registry.*.uptime")
    assert status == 0
    assert re.search(r"router\.message\.rate +│ +\d+ /s +│", text)
    assert re.search(r"registry\.service\.\S+ +│ +\d+s +│.*uptime", text)


def test_no_such_metric_is_status_1(mb: Any) -> None:
    done = mb("metrics", "nope.*", "never")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mb metrics: the broker has no metric nope.* or never\n"


def test_watching_asks_again_until_ctrl_c(mb: Any) -> None:
    with mb.started("metrics", "router.request.count", "--watch", "0.01") as process:
        values = [json.loads(process.stdout.readline())["value"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert values == [1, 2, 3]
    assert (process.returncode, err) == (0, "")


@pytest.mark.anyio
async def test_watching_on_a_terminal_draws_one_table_in_its_place(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mb_tools.output.sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown = ""
    with anyio.fail_after(30):
        async with MessageBrokerClient(url) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(metrics._watch, client, ["router.request.count"], 0.001)
            while not re.search(r"│ +3 │", shown):
                await anyio.lowlevel.checkpoint()
                shown += capsys.readouterr().out
            tasks.cancel_scope.cancel()
    assert "\x1b[1A" in shown  # the cursor goes up, over the table before
