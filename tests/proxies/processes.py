"""A real broker and real proxies before it, each in a process of its own, on free local ports."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mb_broker.ports import HOST, reserved_port
from mb_testing import wait_until

__all__ = ["HOST", "BrokerProcess", "documented", "program", "proxy", "replaced"]

PAGE = Path(__file__).parents[2] / "docs" / "nginx.md"
# Seconds after which a process that should have started counts as hanging.
PATIENCE = 30
# Where Debian puts servers; not in everyone's PATH.
_PLACES = "/usr/sbin:/usr/local/sbin"


def documented(language: str) -> list[str]:
    """The blocks of configuration in docs/nginx.md in this language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def replaced(text: str, changes: dict[str, str]) -> str:
    """`text` with each key replaced by its value; each has to be there."""
    for old, new in changes.items():
        assert old in text, f"docs/nginx.md has no {old!r} any more"
        text = text.replace(old, new)
    return text


def program(name: str) -> str:
    """The path of an installed proxy; skips the test where it is missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PLACES}")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {name})")
    return found


class BrokerProcess:
    """`mb serve` on ports that stay its own while it does not run; a context manager."""

    def __init__(self, log: Path, schemes: Sequence[str], *arguments: str) -> None:
        self._log = log
        self._schemes = schemes
        self._arguments = arguments
        self._reserved = contextlib.ExitStack()
        self._process: subprocess.Popen[str] | None = None
        self.ports: dict[str, int] = {}

    def __enter__(self) -> BrokerProcess:
        for scheme in self._schemes:
            self.ports[scheme] = self._reserved.enter_context(reserved_port())
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._reserved.close()

    @property
    def log(self) -> str:
        """What it has written to its log so far."""
        return self._log.read_text()

    def url(self, scheme: str) -> str:
        return f"{scheme}://{HOST}:{self.ports[scheme]}"

    def start(self) -> None:
        """Run; returns when it listens."""
        ports = dict.fromkeys(("tcp", "ws", "tls", "wss"), "off")
        ports |= {scheme: str(port) for scheme, port in self.ports.items()}
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mb_tools", "serve"),
                    *(part for name, port in ports.items() for part in (f"--{name}-port", port)),
                    *self._arguments,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        for _ in self.ports:
            assert self._process.stdout.readline(), self.log

    def stop(self) -> None:
        """End it by SIGTERM; returns when it is gone.  Safe to call twice."""
        if self._process is not None:
            with self._process as process:
                process.terminate()
                assert process.wait(PATIENCE) == 0, self.log
            self._process = None


@contextlib.contextmanager
def proxy(command: Sequence[str], ports: Sequence[int], log: Path) -> Iterator[None]:
    """Run a proxy while the block lasts; it begins when the proxy listens on all these ports."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    with process:
        try:
            wait_until(
                lambda: all(map(_listens, ports)) or process.poll() is not None, timeout=PATIENCE
            )
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True
