"""Servers in processes of their own, on free ports of 127.0.0.1, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["find_program", "free_port", "mb_broker", "module", "program", "server"]


def find_program(name: str) -> str | None:
    """The path of a server's program; Debian keeps some where only root's PATH leads."""
    return shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def program(name: str) -> str:
    """The same of one that has to be there; raises FileNotFoundError where it is not."""
    path = find_program(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def server(*command: str, ready: str) -> Iterator[str]:
    """Run a command; gives the line with `ready` in it by which it says that it serves.

    Raises RuntimeError with all that it printed when it ends before that.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield _line_with(ready, process)
        finally:
            process.kill()


def _line_with(ready: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        if ready in line:
            return line.strip()
        printed.append(line)
    raise RuntimeError(f"{process.args!r} ended before it served:\n{''.join(printed)}")


def module(name: str, *arguments: str, ready: str) -> contextlib.AbstractContextManager[str]:
    """The same for a module that this interpreter runs."""
    return server(sys.executable, "-m", name, *arguments, ready=ready)


def mb_broker(scheme: str) -> contextlib.AbstractContextManager[str]:
    """MB's broker, listening over one transport; gives its URL."""
    address = f"{scheme}://127.0.0.1:"
    return module("mb_tools", "serve", "--listen", f"{address}0", ready=address)
