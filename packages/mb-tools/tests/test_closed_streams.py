"""Streams that `mb` can not use: closed pipes, full disks, no stdin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mb_core import (
    InternalError,
    SlowConsumer,
)
from mb_tools.connect import _note_error


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
    monkeypatch.setattr("mb_core.plugins.registry.read_entry_points", lambda: others)
    monkeypatch.setattr("mb_core.plugins.registry._found", {})
    result = CliRunner().invoke(main, ["services", "--url", "ws://localhost"], prog_name="mb")
    assert result.exit_code == 3
    assert result.stderr == "mb services: ws:// needs the package mb-ws: pip install mb-ws\n"


def test_what_goes_wrong_beside_a_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _note_error(SlowConsumer("a.#", 7))
    _note_error(InternalError("oh no"))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("mb: dropped messages of a.# so far: 7 (they arrive faster than")
    assert second == "mb: INTERNAL_ERROR: oh no"
