"""How `mb` ends: statuses, one line on stderr, Ctrl-C, closed pipes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
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
    SlowConsumer,
)
from mb_tools.cli import CommandGroup
from mb_tools.connect import _note_error
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
        "mb do: what? (mb do --help tells more)\n",
    )
    result = CliRunner().invoke(program(lambda: None), ["--what"], prog_name="mb")
    assert result.exit_code == 2
    assert re.fullmatch(r"mb: No such option\W+--what'? \(mb --help tells more\)\n", result.stderr)


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


# Commands


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
    assert f"the connection to {url} has ended" in err


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


# Streams that can't be used


def shell(mb: Any, command: str) -> tuple[int, str]:
    """Run a shell's command in which $MB is `mb`; its status and what it wrote to stderr."""
    done = subprocess.run(
        ["sh", "-c", command],
        env=mb.environ | {"MB": f"{sys.executable} -m mb_tools"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("redirection", "why"),
    [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")],
)
@pytest.mark.parametrize(
    "command", ["", "--version", "--help", "services", "plugins", "completion bash", "ping -n 1"]
)
def test_output_that_cannot_be_written_is_one_line_and_status_1(
    mb: Any, command: str, redirection: str, why: str
) -> None:
    status, err = shell(mb, f"$MB {command} {redirection}")
    name = "mb" if not command or command.startswith("-") else f"mb {command.split()[0]}"
    assert (status, err) == (1, f"{name}: can't write to standard output: {why}\n")


@pytest.mark.parametrize(
    "command",
    ["sub a.b", "log", "trace", "reply a.b --echo", "request a.b", "metrics --watch 1000"],
)
@pytest.mark.parametrize(
    ("redirection", "why"),
    [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")],
)
def test_output_that_cannot_be_written_is_noticed_before_there_is_any(
    mb: Any, command: str, redirection: str, why: str
) -> None:
    status, err = shell(mb, f"$MB {command} {redirection}")
    name = f"mb {command.split()[0]}"
    assert (status, err) == (1, f"{name}: can't write to standard output: {why}\n")


def test_messages_that_cannot_be_written_end_sub_in_one_line(
    mb: Any, peer: Any, tmp_path: Path
) -> None:
    with subprocess.Popen(
        ["sh", "-c", f"ulimit -f 0; exec $MB sub a.b >{tmp_path}/out"],
        # Where coverage is measured it could not write its own file, and would say so.
        env={name: value for name, value in mb.environ.items() if not name.startswith("COV")}
        | {"MB": f"{sys.executable} -m mb_tools"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            peer.wait_for_subscriber("a.b")
            peer.publish("a.b", 1)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert err == "mb sub: can't write to standard output: File too large\n"


def test_closed_streams_that_are_not_needed_are_no_error(mb: Any) -> None:
    assert shell(mb, "$MB pub a.b 1 <&- >&-") == (0, "")
    assert shell(mb, "$MB pub a.b 1 <&- >&- 2>&-") == (0, "")
    assert shell(mb, "$MB pub a..b 1 2>&-") == (2, "")
    assert shell(mb, "$MB pub a..b 1 2>/dev/full") == (2, "")


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_a_broker_without_stdout_serves_all_the_same(mb: Any, redirection: str) -> None:
    command = f"exec $MB serve --tcp-port 0 --ws-port off {redirection}"
    with subprocess.Popen(
        ["sh", "-c", command],
        env=mb.environ | {"MB": f"{sys.executable} -m mb_tools"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            while "can't write the URLs" not in (line := process.stderr.readline()):
                assert line, "it ended"
            url = line.rpartition("(")[2].rstrip(")\n")
            assert mb("services", "--url", url).returncode == 0
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.parametrize("options", ["-", "- --text", "--lines"])
def test_stdin_that_cannot_be_read_is_one_line(mb: Any, options: str) -> None:
    status, err = shell(mb, f"$MB pub a.b {options} <&-")
    assert (status, err) == (2, "mb pub: can't read standard input: Bad file descriptor\n")


# Windows has no fcntl and no poll
WITHOUT_POSIX = """
import select, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
del select.poll
from mb_tools.cli import main
main()
"""


@pytest.mark.parametrize(
    "command",
    [
        "pub a.b -",
        "request system.heartbeat",
        "sub a.b --timeout 1",
        "ping -n 1",
        "services",
        "topics",
        "metrics router.message.count",
        "log --timeout 1",
        "plugins",
        "demo",
    ],
)
def test_commands_work_without_what_only_posix_has(mb: Any, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_POSIX, *command.split()],
        env=mb.environ,
        input="{}",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_lines_of_stdin_are_read_without_what_only_posix_has(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.b", "-n", "2") as sub:
        peer.wait_for_subscriber("a.b")
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_POSIX, "pub", "a.b", "--lines"],
            env=mb.environ,
            input="1\n2\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        out, _ = sub.communicate(timeout=60)
    assert [json.loads(line)["payload"] for line in out.splitlines()] == [1, 2]


def test_help_that_nobody_reads_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "mb_tools", "services", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("amqp://localhost", 3, "no installed plugin speaks amqp://"),
        ("localhost:8081", 2, "is not a URL: expected scheme://host:port"),
        ("tcp://localhost:nix", 3, "invalid URL"),
    ],
)
def test_a_url_that_leads_nowhere_says_why(mb: Any, url: str, status: int, said: str) -> None:
    done = mb("services", "--url", url)
    assert done.returncode == status
    assert done.stderr.startswith("mb services: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert mb("services", MB_URL=url).returncode == status


def test_a_scheme_that_is_not_installed_names_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib import metadata

    from mb_tools.cli import main

    transports = metadata.entry_points(group="mb.transports")
    others = [entry for entry in transports if entry.dist is None or entry.dist.name != "mb-ws"]
    monkeypatch.setattr("mb_core.plugins.registry._entry_points", lambda: others)
    monkeypatch.setattr("mb_core.plugins.registry._found", {})
    result = CliRunner().invoke(main, ["services", "--url", "ws://localhost"], prog_name="mb")
    assert result.exit_code == 3
    assert result.stderr == "mb services: ws:// needs the package mb-ws: pip install mb-ws\n"


def test_what_goes_wrong_beside_a_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _note_error(SlowConsumer("a.#", 7))
    _note_error(InternalError("oh no"))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("mb: 7 messages of a.# are lost so far: they come faster than")
    assert second == "mb: INTERNAL_ERROR: oh no"
