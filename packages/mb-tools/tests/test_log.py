"""`mb log`: the feed that comes as responses without an id."""

from __future__ import annotations

import json
import re
import signal
import threading
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_broker import Broker
from mb_core import ConnectError, ConnectionLost, InvalidRequestError, TopicNotSupportedError
from mb_tools import feed, log
from mb_tools.endpoint import Endpoint
from mb_tools.feed import ResponseFeed

anyio_test = pytest.mark.anyio


def log_feed(url: str, **payload: Any) -> ResponseFeed:
    return ResponseFeed(Endpoint(url), "system.log", "system.log.subscribe", payload, name="test")


def test_entries_are_lines_of_json(mb: Any, peer: Any) -> None:
    with mb.started("log", "--level", "debug", "--level", "info", "-n", "1") as process:
        peer.wait_for_service("mb log")
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
    assert hint == f"mb log: the log of {mb.url} (debug, info); Ctrl-C ends it"
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


class Entry:
    """A message of the feed with this payload."""

    def __init__(self, payload: str) -> None:
        self.raw_payload = payload.encode()


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
    ],
)
def test_whatever_an_entry_is_it_is_one_line(payload: str, line: str) -> None:
    entry: Any = Entry(payload)
    people: Any = People()
    text = log._line(entry, people)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}}  {re.escape(line)}\n", text)


def test_an_entry_that_is_no_object_is_json_all_the_same() -> None:
    machine: Any = Machine()
    entry: Any = Entry("plain text")
    assert json.loads(log._line(entry, machine)) == {"message": "plain text"}
    entry = Entry('{"n":1.50}')
    assert log._line(entry, machine) == '{"n":1.50}\n'


# The feed


@anyio_test
@pytest.mark.parametrize("scheme", ["tcp", "ws", "memory"])
async def test_a_feed_comes_over_any_transport(scheme: str, mb_broker: Broker) -> None:
    url = mb_broker.url_of(scheme)
    async with (
        log_feed(url, levels=["debug", "info", "warn"]) as entries,
        log_feed(url, levels=["error"]),  # what it does is in the log
    ):
        with anyio.fail_after(30):
            message = await anext(aiter(entries))
    assert message.topic == "system.log"
    assert message.request_id is None


@anyio_test
async def test_a_refusal_is_raised_where_the_feed_is_entered(url: str) -> None:
    with pytest.raises(InvalidRequestError):
        async with log_feed(url, levels=["loud"]):
            pass
    with pytest.raises(TopicNotSupportedError):
        async with ResponseFeed(Endpoint(url), "a.b", "system.nope", {}, name="test"):
            pass


@anyio_test
async def test_nobody_there_is_a_connect_error() -> None:
    with pytest.raises(ConnectError):
        async with log_feed("tcp://127.0.0.1:1"):
            pass


@anyio_test
async def test_a_broker_that_says_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "_PATIENCE", 0.05)

    async def say_nothing(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                pass

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    said = r"did not accept system\.log\.subscribe within"
    with anyio.fail_after(30):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, say_nothing)
            with pytest.raises(ConnectError, match=said):
                async with log_feed(f"tcp://127.0.0.1:{port}"):
                    pass
            tasks.cancel_scope.cancel()


@anyio_test
async def test_the_end_of_the_connection_ends_the_feed() -> None:
    broker = Broker("tcp://127.0.0.1:0")
    async with broker:
        entries = await log_feed(broker.url).__aenter__()
    with anyio.fail_after(30), pytest.raises(ConnectionLost):
        await anext(aiter(entries))
    await entries.__aexit__()


@anyio_test
async def test_what_does_not_fit_is_counted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_QUEUE", 2)
    entries = log_feed(url)
    for number in range(5):
        await entries._receive(f"response:System.Log:1.0.0\n{number}")
    # Before the greeting the Session takes nothing.
    assert (entries.queued, entries.dropped) == (0, 0)
    entries._session.link_up()
    for number in range(5):
        await entries._receive(f"response:System.Log:1.0.0\n{number}")
    await entries._receive("response:other:1.0.0\n1")
    await entries._receive("nonsense")
    assert (entries.queued, entries.dropped) == (2, 3)


@anyio_test
async def test_lost_entries_are_told(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Overrun(ResponseFeed):
        """A feed that was given more than it holds."""

        async def __aenter__(self) -> ResponseFeed:
            await super().__aenter__()
            for number in range(5):
                await self._receive(f'response:system.log:1.0.0\n{{"n":{number}}}')
            return self

    monkeypatch.setattr(feed, "_QUEUE", 2)
    monkeypatch.setattr(log, "ResponseFeed", Overrun)
    options: dict[str, Any] = {"regex": None, "timeout": None, "as_json": True}
    with anyio.fail_after(30):
        assert await log.run(Endpoint(url), levels=["error"], count=2, **options) is None
    printed = capsys.readouterr()
    assert printed.out == '{"n":0}\n{"n":1}\n'
    assert printed.err == "mb: 3 entries are lost so far: they come faster than they are read\n"
