"""How `mb top` begins and ends: on a terminal, without one, without textual, without a broker."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import pytest

from mb_client import Broker, ConnectError, PluginError
from mb_tools.commands.top import command as top

MB = [sys.executable, "-W", "error", "-m", "mb_tools"]


@contextmanager
def terminal(url: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`mb top` on a terminal of its own; gives the process and our end of the terminal."""
    ours, its = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    command = [*MB, "top", "--no-audit", "--url", url]
    try:
        with subprocess.Popen(
            command, stdin=its, stdout=its, stderr=its, env=environment
        ) as process:
            os.close(its)
            try:
                yield process, ours
            finally:
                process.kill()
    finally:
        os.close(ours)


def read_until(end: int, text: bytes, seconds: float = 30.0) -> bytes:
    """What is drawn, up to `text`; or all, where the terminal is closed before."""
    seen = b""
    until = time.monotonic() + seconds
    while text not in seen:
        ready, _, _ = select.select([end], [], [], max(0.0, until - time.monotonic()))
        assert ready, seen.decode(errors="replace")
        try:
            chunk = os.read(end, 65_536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    return seen


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_it_draws_on_the_terminal_until_a_key_and_ends_with_status_0(
    mb_broker: Broker, key: bytes
) -> None:
    pytest.importorskip("textual")
    with terminal(mb_broker.url_of("tcp")) as (process, end):
        read_until(end, b"services")
        os.write(end, key)
        # The terminal is given back as it was found: off the alternate screen.
        assert b"\x1b[?1049l" in read_until(end, b"\x1b[?1049l")
        read_until(end, b"never comes")
        assert process.wait(20) == 0


def test_without_a_terminal_it_says_what_else_there_is(mb_broker: Broker) -> None:
    pytest.importorskip("textual")
    done = subprocess.run(
        [*MB, "top", "--url", mb_broker.url_of("tcp")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mb top: mb top needs a terminal (in scripts, use mb metrics and mb services) "
        "(see mb top --help)\n"
    )


def test_without_textual_it_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    with pytest.raises(click.UsageError, match=r"pip install 'mb-tools\[top\]'"):
        top.main([], standalone_mode=False)


@pytest.mark.parametrize(
    ("url", "error"), [("tcp://127.0.0.1:1", ConnectError), ("carrier://pigeon", PluginError)]
)
def test_a_first_connection_that_fails_is_an_error_and_no_screen(
    monkeypatch: pytest.MonkeyPatch, url: str, error: type[Exception]
) -> None:
    pytest.importorskip("textual")
    monkeypatch.setattr(sys, "stdin", _Terminal())
    monkeypatch.setattr(sys, "stdout", _Terminal())
    with pytest.raises(error):
        top.main(["--url", url], standalone_mode=False)


class _Terminal:
    def isatty(self) -> bool:
        return True
