"""`mb request` and `mb reply`: with a client, and with each other."""

from __future__ import annotations

import gc
import json
import shlex
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import click
import msgspec
import pytest

from mb_core import (
    InternalError,
    InvalidRequestError,
    Message,
    RequestTimeoutError,
    ResponseError,
    parse_message,
)
from mb_testing import wait_until
from mb_tools.commands import reply
from mb_tools.commands.reply import constant, echo_payload, output_of

anyio_test = pytest.mark.anyio


def python(code: str) -> str:
    """A command that runs Python code, for --exec."""
    return shlex.join([sys.executable, "-S", "-c", code])


def question(payload: str) -> Message:
    return parse_message(f"request:a.b:1.0.0:5d0c3b0e-7f5c-4b4e-9a53-2f0d7c9e4a11\n{payload}")


# mb request


def test_a_request_prints_the_answer_on_one_line(mb: Any, peer: Any) -> None:
    peer.answer("weather.current", lambda message: {"city": message.payload["city"], "c": [3]})
    done = mb.process("request", "weather.current", '{"city": "Oslo"}')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == '{"city":"Oslo","c":[3]}\n'


def test_a_request_reads_its_payload_from_stdin(mb: Any, peer: Any) -> None:
    peer.answer("a.b", lambda message: message.payload)
    assert mb("request", "a.b", "-", stdin='{\n"x": 1}').stdout == '{"x":1}\n'
    assert mb("request", "a.b", "-", "--text", stdin="hello\n").stdout == '"hello"\n'
    assert mb("request", "a.b", "-", stdin="[]").stdout == "[]\n"
    assert mb("request", "a.b", stdin="not read").stdout == "{}\n"
    assert mb("request", "a.b", "-5").stdout == "-5\n"


def test_half_a_surrogate_pair_is_sent_and_shown_as_it_is(mb: Any, peer: Any) -> None:
    peer.answer("a.b", lambda message: msgspec.Raw(message.raw_payload))
    payload = '{"a":"\\ud800","b":1.0}'
    assert mb("request", "a.b", payload).stdout == f"{payload}\n"
    assert mb.on_terminal("request", "a.b", payload) == (0, f"{payload}\n")


def test_an_answer_may_be_empty_or_no_json(mb: Any, peer: Any) -> None:
    connection = peer.client._supervisor.connection
    payloads = [b"", b"plain\ttext"]

    async def respond(message: Message) -> None:
        connection.link.send(b"response:a.b:1.0.0:%b\n%b" % (message.request_key, payloads.pop(0)))
        message.responder = None

    peer.answer("a.b", respond)
    assert mb("request", "a.b").stdout == "null\n"
    assert mb("request", "a.b").stdout == "plain\\ttext\n"


def test_an_answer_on_a_terminal_is_indented_unless_json_is_asked_for(mb: Any, peer: Any) -> None:
    peer.answer("a.b", lambda message: {"x": 1})
    assert mb.on_terminal("request", "a.b") == (0, '{\n  "x": 1\n}\n')
    assert mb.on_terminal("request", "a.b", "--json") == (0, '{"x":1}\n')


def test_an_error_answer_is_status_1_and_one_line(mb: Any, peer: Any) -> None:
    def refuse(message: Message) -> None:
        raise ResponseError("too\nhot", code="OUT_OF_RANGE", details={"max": 40})

    peer.answer("a.b", refuse)
    done = mb.process("request", "a.b")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'mb request: OUT_OF_RANGE: too\\nhot {"max":40}\n'


def test_the_time_limit_is_the_request_s(mb: Any, peer: Any) -> None:
    never = peer.event()

    async def wait(message: Message) -> None:
        await never.wait()

    peer.answer("a.b", wait)
    began = time.monotonic()
    done = mb("request", "a.b", "--timeout", "100")
    assert done.returncode == 1
    assert done.stderr.startswith("mb request: TIMEOUT: ")
    assert time.monotonic() - began < 10
    assert mb("request", "a.b", "--timeout", "0").returncode == 2


# mb reply


def test_a_constant_answers_so_many_requests_and_ends(mb: Any, peer: Any) -> None:
    with mb.started("reply", "a.#", "--value", '{"degrees": 3.0}', "-n", "2") as process:
        peer.wait_for_subscriber("a.#", "request")
        assert peer.request("a.b", {"city": "Oslo"}) == {"degrees": 3}
        assert peer.request("a.c", None) == {"degrees": 3}
        out, err = process.communicate(timeout=60)
    first, second = map(json.loads, out.splitlines())
    assert (first["topic"], first["payload"]) == ("a.b", {"city": "Oslo"})
    assert '"answer":{"degrees":3.0}' in out
    assert first["ms"] >= 0
    assert len(first["requestId"]) == 36
    assert (second["topic"], second["payload"]) == ("a.c", None)
    assert (process.returncode, err) == (0, "")


def test_reply_says_who_it_is(mb: Any, peer: Any) -> None:
    with mb.started("reply", "a.b", "--echo", "--name", "Weather"):
        peer.wait_for_service("Weather")


def test_the_highest_priority_answers(mb: Any, peer: Any) -> None:
    peer.answer("a.b", lambda message: "peer")
    assert peer.request("a.b", 1) == "peer"
    with mb.started("reply", "a.b", "--value", '"mb"', "--priority", "5"):
        while len(peer.request("system.topic.list", {})["topics"][0]["subscribers"]) < 2:
            pass
        assert peer.request("a.b", 1) == "mb"


def test_ctrl_c_ends_reply_with_status_0(mb: Any, peer: Any) -> None:
    with mb.started("reply", "a.b", "--echo") as process:
        peer.wait_for_subscriber("a.b", "request")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_reply_answer_what_it_was_asked(
    mb: Any, peer: Any, tmp_path: Path, number: signal.Signals
) -> None:
    proceed = tmp_path / "proceed"
    code = (
        "import json, pathlib, sys, time\n"
        f"asked = json.load(sys.stdin); pathlib.Path({str(tmp_path)!r}, str(asked)).touch()\n"
        f"while not pathlib.Path({str(proceed)!r}).exists(): time.sleep(0.01)\n"
        "print(asked)"
    )
    with (
        mb.started("reply", "a.b", "--concurrency", "2", "--exec", python(code)) as process,
        ThreadPoolExecutor() as threads,
    ):
        peer.wait_for_subscriber("a.b", "request")
        answers = [threads.submit(peer.request, "a.b", each, timeout=20_000) for each in (1, 2)]
        wait_until(lambda: {path.name for path in tmp_path.iterdir()} == {"1", "2"})
        process.send_signal(number)
        wait_until(lambda: not peer.request("system.topic.list", {})["topics"])
        proceed.touch()
        assert [answer.result(20) for answer in answers] == [1, 2]
        out, err = process.communicate(timeout=60)
    assert [json.loads(line)["answer"] for line in out.splitlines()] in ([1, 2], [2, 1])
    assert err == ""
    assert process.returncode == (0 if number == signal.SIGINT else -signal.SIGTERM)


def test_a_program_answers_with_what_it_prints(mb: Any, peer: Any) -> None:
    code = (
        "import json, os, sys; "
        "print(json.dumps([os.environ['MB_TOPIC'], json.load(sys.stdin)], indent=2))"
    )
    with mb.started("reply", "a.b", "--exec", python(code), "-n", "1"):
        peer.wait_for_subscriber("a.b", "request")
        assert peer.request("a.b", {"x": 1}) == ["a.b", {"x": 1}]


def test_a_program_that_fails_is_an_error_answer(mb: Any, peer: Any) -> None:
    code = "import sys; sys.exit('the reason')"
    with mb.started("reply", "a.b", "--exec", python(code), "-n", "1") as process:
        peer.wait_for_subscriber("a.b", "request")
        with pytest.raises(InternalError, match=r"python.* ended with status 1"):
            peer.request("a.b", {})
        out, err = process.communicate(timeout=60)
    assert json.loads(out)["error"]["code"] == "INTERNAL_ERROR"
    assert err == "the reason\n"  # for the user who runs it, not for the requester
    assert process.returncode == 0


def test_requests_are_answered_side_by_side(mb: Any, peer: Any, tmp_path: Path) -> None:
    # Each of the two programs ends only after both have begun.
    code = (
        "import os, pathlib, sys; place = pathlib.Path(sys.argv[1]); "
        "(place / os.environ['MB_REQUEST_ID']).touch()\n"
        "while len(list(place.iterdir())) < 2: pass\n"
        "print('true')"
    )
    command = f"{python(code)} {tmp_path}"
    with mb.started("reply", "a.b", "--exec", command, "--concurrency", "2"):
        peer.wait_for_subscriber("a.b", "request")

        async def both() -> list[Any]:
            answers = []

            async def ask() -> None:
                answers.append((await peer.client.request("a.b", {})).payload)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                tasks.start_soon(ask)
            return answers

        assert peer.call(both) == [True, True]


def test_an_answer_that_is_too_large_is_an_error(mb: Any, peer: Any) -> None:
    with mb.started(
        "reply", "a.b", "--exec", python("print('[' + '1,' * 9000 + '1]')"), "-n", "1"
    ) as process:
        peer.wait_for_subscriber("a.b", "request")
        with pytest.raises(InternalError, match=r"the answer can't be sent: .* limit is 16384"):
            peer.request("a.b", {})
        out, _ = process.communicate(timeout=60)
    assert json.loads(out)["error"]["code"] == "INTERNAL_ERROR"


def test_reply_and_request_on_a_terminal(mb: Any, peer: Any) -> None:
    shown: list[tuple[int, str]] = []
    command = python("import sys; sys.exit(sys.stdin.read() == '2')") + " # "
    thread = threading.Thread(
        target=lambda: shown.append(
            mb.on_terminal("reply", "a.b", "--exec", command, "-n", "2", NO_COLOR="1")
        )
    )
    thread.start()
    peer.wait_for_subscriber("a.b", "request")
    assert peer.request("a.b", "1") is None
    with pytest.raises(InternalError):
        peer.request("a.b", 2)
    thread.join(60)
    status, text = shown[0]
    hint, first, second = text.splitlines()
    assert status == 0
    assert hint == f"mb reply: answering a.b at {mb.url}; Ctrl-C to stop"
    assert '  a.b  "1"  \N{RIGHTWARDS ARROW}  null  ' in first
    assert "  a.b  2  \N{RIGHTWARDS ARROW}  INTERNAL_ERROR: " in second
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give exactly one of --value, --echo and --exec"),
        (["--echo", "--value", "1"], "give exactly one of --value, --echo and --exec"),
        (["--value", "nope"], "the value is not valid JSON: "),
        (["--exec", "no-such-program-here 1"], "there is no program 'no-such-program-here'"),
        (["--exec", "sh -c 'open"], "can't read the program"),
        (["--exec", ""], "there is no program ''"),
    ],
)
def test_what_can_t_answer_is_status_2(mb: Any, arguments: list[str], said: str) -> None:
    done = mb("reply", "a.b", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# The three ways to answer


@anyio_test
async def test_a_constant_is_sent_as_it_was_written() -> None:
    assert bytes(await constant('{"a":\n1.50}')(question("1"))) == b'{"a":1.50}'
    with pytest.raises(click.UsageError, match="not valid JSON"):
        constant("{")


@anyio_test
async def test_an_echo_is_the_payload() -> None:
    assert bytes(await echo_payload(question('{"a": 1}'))) == b'{"a":1}'
    assert bytes(await echo_payload(question(""))) == b"null"
    with pytest.raises(InvalidRequestError, match="can't be echoed"):
        await echo_payload(question("nope"))


@anyio_test
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('no' + 'pe')", "printed is not valid JSON"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("import os; os.write(1, b'\"\\xff\"')", "printed is not UTF-8"),
    ],
)
async def test_a_program_s_failure_is_told(code: str, said: str) -> None:
    with pytest.raises(InternalError, match=said):
        await output_of(python(code), 60_000)(question("1"))


@anyio_test
async def test_a_program_need_not_read_its_input() -> None:
    answer = output_of(python("print(1)"), 60_000)
    assert bytes(await answer(question(f'"{"x" * 1_000_000}"'))) == b"1"


@anyio_test
async def test_a_program_that_prints_nothing_answers_null() -> None:
    assert bytes(await output_of("true", 60_000)(question("1"))) == b"null"


@anyio_test
async def test_a_program_that_takes_too_long_is_killed() -> None:
    with pytest.raises(RequestTimeoutError, match="sleep took longer than 50 ms"):
        await output_of("sleep 3600", 50)(question("1"))


@anyio_test
@pytest.mark.parametrize("turns", range(12))
async def test_a_program_is_not_lost_wherever_its_start_is_cancelled(turns: int) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(output_of("sleep 3600", 60_000), question("1"))
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    gc.collect()  # warnings of what was left are errors


@anyio_test
async def test_a_program_that_prints_without_end_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reply, "_MAX_OUTPUT", 100_000)
    with pytest.raises(InternalError, match="yes prints without end"):
        await output_of("yes", 60_000)(question("1"))


@anyio_test
async def test_a_program_that_is_gone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "here"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    answer = output_of(str(path), 60_000)
    path.unlink()
    with pytest.raises(InternalError, match="here can't be started: No such file"):
        await answer(question("1"))
