"""`mb services`, `mb topics`, `mb plugins`, `mb ping`: what they print where."""

from __future__ import annotations

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

import pytest

from mb_core import InstalledPlugin, InvalidRequestError, MessageBrokerClient
from mb_core.plugins import PluginReport, PluginState
from mb_tools.commands import ping, plugins
from mb_tools.commands.services import age
from mb_tools.commands.trace import Names

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_services_are_lines_of_json_on_a_pipe(mb: Any, peer: Any) -> None:
    peer.call(peer.client.register_service, "Weather", "Answers")
    done = mb("services")
    assert (done.returncode, done.stderr) == (0, "")
    services = [json.loads(line) for line in done.stdout.splitlines()]
    assert {service["name"] for service in services} == {"Weather", "mb services"}
    assert set(services[0]) == {"id", "name", "description", "connectedAt", "lastHeartbeat"}


def test_services_are_a_table_on_a_terminal(mb: Any, peer: Any) -> None:
    peer.call(peer.client.register_service, "Weather\x1b", "Answers\n[red]")
    status, shown = mb.on_terminal("services", COLUMNS="160")
    assert status == 0
    assert re.search(r"Weather\\x1b +│ \ds +│ \ds +│ Answers\\n\[red\] +│ [0-9a-f]{8} ", shown)
    status, shown = mb.on_terminal("services", "--json")
    assert [json.loads(line)["name"] for line in shown.splitlines()][-1] == "mb services"


def test_topics_name_their_subscribers(mb: Any, peer: Any) -> None:
    peer.call(peer.client.register_service, "Weather", "Answers")
    peer.answer("weather.current", lambda message: 1)

    async def subscribe() -> None:
        await peer.client.subscribe("weather.#")

    peer.call(subscribe)
    listed = [json.loads(line) for line in mb("topics").stdout.splitlines()]
    assert [(entry["topic"], entry["action"]) for entry in listed] == [
        ("weather.#", "publish"),
        ("weather.current", "request"),
    ]
    status, shown = mb.on_terminal("topics")
    assert status == 0
    assert re.search(r"weather\.# +│ publish │ Weather +│", shown)
    assert re.search(r"weather\.current │ request │ Weather \(1\) +│", shown)


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=-3), "0s"),
        (timedelta(seconds=59.9), "59s"),
        (timedelta(minutes=2, seconds=5), "2m 05s"),
        (timedelta(hours=3, minutes=59), "3h 59m"),
        (timedelta(days=2, hours=1), "2d 01h"),
    ],
)
def test_an_age_has_two_units(passed: timedelta, text: str) -> None:
    assert age((NOW - passed).isoformat(), NOW) == text


@pytest.mark.parametrize("moment", [None, "yesterday", "2026-01-01T00:00:00", 7])
def test_a_time_that_can_t_be_read_has_no_age(moment: object) -> None:
    assert age(moment, NOW) == "-"


def test_names_are_learned_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mb_tools.commands.trace._MAX_NAMES", 2)
    names = Names()
    for service_id, name in (("a" * 36, "A"), ("b", ""), (3, "C")):
        names.set(service_id, name)
    assert names.shown("a" * 36) == "A"
    assert names.shown("b" * 36) == "b" * 8
    assert names.get("b") is None
    names.set("b", "B")
    names.set("c", "C")
    assert (names.get("a" * 36), names.get("b"), names.get("c")) == (None, "B", "C")


# mb plugins; tests/plugins has those of third parties, and broken ones


def test_plugins_are_listed_with_their_distributions(mb: Any) -> None:
    done = mb("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    found = {
        (each["kind"], each["name"]): each for each in map(json.loads, done.stdout.splitlines())
    }
    assert found["transport", "tcp"] == {
        "kind": "transport",
        "name": "tcp",
        "distribution": "mb-tcp",
        "version": metadata.version("mb-tcp"),
        "state": "ok",
        "error": None,
    }
    order = ["transport", "front end", "codec", "authenticator", "observer"]
    assert [kind for kind, _ in found] == sorted((kind for kind, _ in found), key=order.index)
    assert {("transport", "memory"), ("front end", "asyncio"), ("codec", "json")} <= found.keys()


def test_plugins_are_a_table_on_a_terminal(mb: Any) -> None:
    status, shown = mb.on_terminal("plugins")
    assert status == 0
    assert re.search(r"transport +│ tcp:// +│ mb-tcp +│ \S+ +│ .*ok", shown)
    assert re.search(r"front end +│ trio +│ mb-core +│ \S+ +│ .*ok", shown)


def test_what_is_the_matter_stands_in_the_table_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = InstalledPlugin("codec", "x\x1b", "acme", "")
    found = [PluginReport(plugin, PluginState.BROKEN, "acme can't be imported:\n[red]")]
    monkeypatch.setattr(plugins, "describe", lambda installed: found)
    monkeypatch.setattr("mb_tools.output.sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    plugins.command.main([], standalone_mode=False)
    shown = capsys.readouterr().out
    assert re.search(
        r"codec │ x\\x1b │ acme +│ - +│ .*broken: acme can't be imported:\\n\[red\]", shown
    )


# mb ping


def test_ping_measures_so_many_heartbeats(mb: Any) -> None:
    done = mb("ping", "-n", "3", "--interval", "0.001")
    assert (done.returncode, done.stderr) == (0, "")
    *pings, figures = map(json.loads, done.stdout.splitlines())
    assert [ping["seq"] for ping in pings] == [1, 2, 3]
    assert (figures["sent"], figures["answered"]) == (3, 3)
    assert figures["min"] <= figures["avg"] <= figures["max"]
    assert figures["max"] == max(ping["ms"] for ping in pings)


def test_ping_on_a_terminal_is_like_ping(mb: Any) -> None:
    status, shown = mb.on_terminal("ping", "-n", "1")
    assert status == 0
    assert re.fullmatch(
        rf"PING {mb.url}: heartbeats, Ctrl-C to stop\n"
        r"seq=1 time=[\d.]+ ms\n"
        r"\n"
        rf"--- {mb.url} ping statistics ---\n"
        r"1 sent, 1 answered, 0% lost\n"
        r"round trip min/avg/max = [\d.]+/[\d.]+/[\d.]+ ms\n",
        shown,
    )


def test_ctrl_c_ends_ping_with_its_figures(mb: Any) -> None:
    with mb.started("ping", "--interval", "3600") as process:
        assert json.loads(process.stdout.readline())["seq"] == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["answered"] == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_no_answer_at_all_is_status_1(
    terminal: bool, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(self: MessageBrokerClient, *args: object, **options: object) -> None:
        raise InvalidRequestError("no")

    monkeypatch.setattr(MessageBrokerClient, "request", refuse)
    monkeypatch.setattr("mb_tools.output.sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    arguments = ["-n", "2", "--interval", "0.001", "--url", url]
    assert ping.command.main(arguments, standalone_mode=False) == 1
    shown = capsys.readouterr().out
    if terminal:
        assert "seq=2 INVALID_REQUEST: no\n" in shown
        assert shown.endswith("2 sent, 0 answered, 100% lost\n")
    else:
        first, _, figures = map(json.loads, shown.splitlines())
        assert first == {"seq": 1, "ms": None, "error": "INVALID_REQUEST"}
        assert figures == {"sent": 2, "answered": 0, "min": None, "avg": None, "max": None}
