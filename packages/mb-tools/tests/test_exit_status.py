"""How `mb` ends: exit statuses, one line on stderr, Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import click
import pytest
from click.testing import CliRunner

from mb_broker import running
from mb_core import (
    ConnectError,
    ConnectionLost,
    InternalError,
    LocalProtocolError,
    MessageTooLarge,
    PluginError,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
)
from mb_tools.cli import CommandGroup
from mb_tools.errors import Failure, Status, note
from mb_tools.runner import run
from mb_tools.text import one_line


def program(body: Callable[[], Any]) -> CommandGroup:
    """A program `mb` with one command, `do`."""
    main = CommandGroup(name="mb")
    main.add_command(click.Command("do", callback=body))
    return main


def outcome(body: Callable[[], Any]) -> tuple[int, str, str]:
    result = CliRunner().invoke(program(body), ["do"], prog_name="mb")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InternalError("oh\nno"), 1, "INTERNAL_ERROR: oh\\nno"),
        (RequestTimeoutError("late", details={"a": 1}), 1, 'TIMEOUT: late {"a":1}'),
        (ResponseError("\x1b[31m", code="MINE"), 1, "MINE: \\x1b[31m"),
        (RemoteProtocolError("no JSON"), 1, "no JSON"),
        (LocalProtocolError("bad topic"), 2, "bad topic"),
        (MessageTooLarge("too much", size=2, limit=1), 2, "too much"),
        (ConnectError("refused"), 3, "refused"),
        (ConnectionLost("gone", sent=True), 3, "gone"),
        (PluginError("pip install mb-x"), 3, "pip install mb-x"),
        (Failure("nothing came"), 1, "nothing came"),
        (Failure("what?", Status.USAGE), 2, "what?"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_one_line_and_a_status(error: Exception, status: int, text: str) -> None:
    assert outcome(raising(error)) == (status, "", f"mb do: {text}\n")


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        outcome(raising(ZeroDivisionError()))


def test_wrong_usage_is_one_line_that_names_the_help() -> None:
    assert outcome(raising(click.UsageError("what?"))) == (
        2,
        "",
        "mb do: what? (see mb do --help)\n",
    )
    result = CliRunner().invoke(program(lambda: None), ["--what"], prog_name="mb")
    assert result.exit_code == 2
    assert re.fullmatch(r"mb: No such option\W+--what'? \(see mb --help\)\n", result.stderr)


@pytest.mark.parametrize("given", [None, Status.SUCCESS, Status.FAILED])
def test_what_a_command_returns_is_the_status(given: Status | None) -> None:
    assert outcome(lambda: given) == (given or 0, "", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupted_command_says_nothing(error: BaseException) -> None:
    assert outcome(raising(error)) == (130, "", "")


def test_a_closed_pipe_is_no_error() -> None:
    assert outcome(raising(BrokenPipeError())) == (0, "", "")


def test_a_program_that_is_called_by_another_raises() -> None:
    with pytest.raises(Failure, match="no"):
        program(raising(Failure("no"))).main(["do"], standalone_mode=False)


def test_of_several_errors_the_first_is_told() -> None:
    async def fail() -> None:
        raise ExceptionGroup("", [ExceptionGroup("", [ConnectError("refused")])])

    with pytest.raises(ConnectError, match="refused"):
        run(fail)


@pytest.mark.parametrize("following", [True, False])
@pytest.mark.parametrize(("endless", "status"), [(True, 0), (False, 130)])
def test_ctrl_c_is_the_usual_end_of_what_is_endless(
    following: bool, endless: bool, status: int
) -> None:
    async def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()

    assert run(interrupt, following=following, endless=endless) == status


def test_a_note_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("a\tb")
    assert capsys.readouterr().err == "mb: a\\tb\n"


def test_a_line_holds_no_control_characters() -> None:
    assert one_line("a\x1b[0m\x85\u2028b \N{SNOWMAN}") == "a\\x1b[0m\\x85\\u2028b \N{SNOWMAN}"
    for character in "\u200b\u202e\u2066\ufeff\xad\u034f\u3164\ufe00\U000e0001\U000e0100\ud800":
        assert one_line(f"a{character}b") == f"a{ascii(character)[1:-1]}b"
    assert one_line("\u2764\ufe0f e\u0301 \u0e01\u0e34") == "\u2764\ufe0f e\u0301 \u0e01\u0e34"


@pytest.mark.parametrize(
    "arguments",
    [
        ["pub", "a.b", "1"],
        ["request", "a.b", "1"],
        ["sub", "a.b"],
        ["reply", "a.b", "--echo"],
        ["services"],
        ["topics"],
        ["metrics"],
        ["log"],
        ["trace"],
        ["ping"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_broker_is_status_3(mb: Any, arguments: list[str]) -> None:
    call = mb.process if arguments == ["topics"] else mb
    done = call(*arguments, "--url", "tcp://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (3, "")
    command = f"mb {arguments[0]}"
    assert (
        done.stderr == f"{command}: nobody listens on 127.0.0.1:1: is the broker running there?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["sub", "a.b"], "mb sub"),
        (["reply", "a.b", "--echo"], "mb reply"),
        (["trace"], "mb trace"),
        (["log"], "mb log"),
        (["ping", "--interval", "0.01"], None),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_lost_connection_is_status_3(
    mb: Any, peer_of: Any, arguments: list[str], name: str | None
) -> None:
    with ExitStack() as broker:
        url = broker.enter_context(running("tcp://127.0.0.1:0")).url
        with mb.started(*arguments, "--url", url) as process:
            if name is None:
                assert process.stdout is not None
                process.stdout.readline()
            else:
                with peer_of(url) as peer:
                    peer.wait_for_service(name)
            broker.close()
            _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err.startswith(f"mb {arguments[0]}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "name", "ask"),
    [
        (["sub", "a.b"], "mb sub", lambda peer: peer.publish("a.b", "after")),
        (["reply", "a.b", "--echo"], "mb reply", lambda peer: peer.request("a.b", "after")),
    ],
    ids=["sub", "reply"],
)
def test_with_reconnect_it_waits_for_the_broker_and_stays(
    mb: Any, peer_of: Any, arguments: list[str], name: str, ask: Any
) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
        process = mb.started(*arguments, "--reconnect", "-n", "2", "--url", url)
        with process as running_command:
            assert "nobody listens" in running_command.stderr.readline()
            reserved.close()
            for _ in range(2):
                with running(url), peer_of(url) as peer:
                    peer.wait_for_subscriber("a.b", "request" if name == "mb reply" else "publish")
                    ask(peer)
                    assert '"after"' in running_command.stdout.readline()
            _, err = running_command.communicate(timeout=60)
    assert running_command.returncode == 0
    assert f"connected to {url}" in err
    assert f"the connection to {url} was lost" in err


def test_ctrl_c_ends_a_request_with_status_130(mb: Any, peer: Any) -> None:
    asked, release = peer.event(), peer.event()

    async def slow(message: Any) -> None:
        asked.set()
        await release.wait()

    peer.answer("a.slow", slow)
    with mb.started("request", "a.slow") as process:
        peer.call(asked.wait)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["sub", "a.b", "-n", "1"], "mb sub"),
        (["sub", "a.b", "--timeout", "60000"], "mb sub"),
        (["log", "-n", "1"], "mb log"),
        (["trace", "-n", "1"], "mb trace"),
        (["reply", "a.b", "--echo", "-n", "1"], "mb reply"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_ctrl_c_before_a_command_has_what_it_waits_for_is_status_130(
    mb: Any, peer: Any, arguments: list[str], name: str
) -> None:
    with mb.started(*arguments) as process:
        peer.wait_for_service(name)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_ctrl_c_before_any_heartbeat_was_answered_is_status_1(mb: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with mb.started("ping", "--url", f"tcp://127.0.0.1:{port}") as process:
            connection, _ = listener.accept()
            with connection:
                greeting = b"publish:system.initialize:1.0.0\n{}"
                connection.sendall(len(greeting).to_bytes(4) + greeting)
                assert b"system.heartbeat" in connection.recv(4096)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(out) == {"sent": 1, "answered": 0, "min": None, "avg": None, "max": None}
    assert err == "mb ping: no heartbeat was answered\n"


@pytest.mark.parametrize("option", ["ping --interval", "metrics --watch"])
def test_no_number_of_seconds_is_wrong_usage(mb: Any, option: str) -> None:
    done = mb(*option.split(), "nan")
    assert done.returncode == 2
    assert "nan is not in the range" in done.stderr


def test_a_pattern_that_matches_nothing_is_wrong_usage(mb: Any) -> None:
    done = mb("trace", "order.*")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mb trace: invalid topic pattern 'order.*'")
