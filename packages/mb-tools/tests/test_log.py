"""`mb log`: the broker's log, for people and for programs."""

from __future__ import annotations

import json
import re
import signal
import threading
from typing import Any

import anyio
import pytest

from mb_core import Message, NoRouteFoundError, parse_message
from mb_tools.commands import log
from mb_tools.connect import Endpoint, following

anyio_test = pytest.mark.anyio


def test_entries_are_lines_of_json(mb: Any, peer: Any) -> None:
    with mb.started("log", "--level", "debug", "--level", "info", "-n", "1") as process:
        peer.wait_for_service("mb log")
        while process.poll() is None:  # it may not follow yet
            peer.call(peer.client.register_service, "Weather", "Answers")
        out, err = process.communicate(timeout=60)
    entry = json.loads(out)
    assert {"level", "module", "message", "timestamp"} <= set(entry)
    assert entry["level"] in ("debug", "info")
    assert (process.returncode, err) == (0, "")


def test_a_regex_the_broker_refuses_is_status_1(mb: Any) -> None:
    done = mb("log", "--regex", "(")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mb log: INVALID_REQUEST: ")


def test_entries_that_do_not_come_are_status_1(mb: Any) -> None:
    done = mb("log", "-n", "3", "--timeout", "50")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mb log: timed out after 50 ms: received 0 of 3 entries\n"
    assert mb("log", "--timeout", "50").returncode == 0


def test_ctrl_c_ends_log_with_status_0(mb: Any, peer: Any) -> None:
    with mb.started("log") as process:
        peer.wait_for_service("mb log")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_an_entry_on_a_terminal_is_a_line_for_people(mb: Any, peer: Any) -> None:
    shown: list[tuple[int, str]] = []
    arguments = ("log", "--level", "debug", "--level", "info", "-n", "1")
    thread = threading.Thread(target=lambda: shown.append(mb.on_terminal(*arguments, NO_COLOR="1")))
    thread.start()
    peer.wait_for_service("mb log")
    while thread.is_alive():
        peer.call(peer.client.register_service, "Weather", "Answers")
    status, text = shown[0]
    hint, line = text.splitlines()
    assert status == 0
    assert hint == f"mb log: the log of {mb.url} (debug, info); Ctrl-C to stop"
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3}  (DEBUG|INFO ) +\S+  \S", line)


# Lines


class People:
    """An Output for a terminal without colours."""

    people = True

    @staticmethod
    def style(text: str, **styles: object) -> str:
        return text


class Machine(People):
    people = False


def entry_of(payload: str) -> Message:
    """A message of the feed with this payload."""
    return parse_message(f"response:system.log:1.0.0\n{payload}")


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (
            '{"level":"warn","module":"router","message":"a\\u001bb","topic":"a.b","n":[1]}',
            "WARN   router  a\\x1bb  topic=a.b  n=[1]",
        ),
        ('{"message":"bare","timestamp":"never"}', "       -  bare"),
        ("plain text", "       -  plain text"),
        ("[1]", "       -  [1]"),
        ('{"message":"\\ud800","n":["\\ud800"]}', '       -  \\ud800  n=["\\ud800"]'),
    ],
)
def test_whatever_an_entry_is_it_is_one_line(payload: str, line: str) -> None:
    people: Any = People()
    text = log._line(entry_of(payload), people)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}}  {re.escape(line)}\n", text)


def test_an_entry_that_is_no_object_is_json_all_the_same() -> None:
    machine: Any = Machine()
    text = log._line(entry_of("plain text"), machine)
    assert json.loads(text) == {"message": "plain text"}
    for payload in ('{"n":1.50}', '{"message":"\\ud800"}'):
        assert log._line(entry_of(payload), machine) == f"{payload}\n"


# Following


@anyio_test
async def test_what_does_not_fit_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with following(Endpoint(url), "test", "test") as client:
        lost = anyio.Event()
        client.on_error(lambda error: lost.set())
        entries = await client.follow_log(["error"], queue_size=1)
        for _ in range(3):
            with pytest.raises(NoRouteFoundError):
                await client.request("no.one", {})
        with anyio.fail_after(30):
            await lost.wait()
        assert entries.queued == 1
    assert "dropped messages of system.log so far: 1" in capsys.readouterr().err
