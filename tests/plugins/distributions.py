"""Distributions with plugins, made in a folder, and programs that have them installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Environment:
    """A folder of distributions, which programs find beside all that is installed here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def install(
        self, name: str, source: str, version: str = "1.0", **groups: Sequence[str]
    ) -> None:
        """Install `source` as a distribution with one module.

        `groups` are the kinds of its entry points, each with the names that it promises:
        transports=["acme"].
        """
        module = name.replace("-", "_")
        (self._folder / f"{module}.py").write_text(source)
        about = self._folder / f"{module}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        entries = [
            f"[mb.{group}]\n" + "".join(f"{promised} = {module}\n" for promised in names)
            for group, names in groups.items()
        ]
        (about / "entry_points.txt").write_text("".join(entries))

    def python(self, program: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a program until it exits."""
        return self.run("-c", program, **environ)

    def mb(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the command `mb` until it exits."""
        return self.run("-m", "mb_tools", *arguments, **environ)

    def environ(self, **more: str) -> Mapping[str, str]:
        """The environment of a process that has them installed."""
        return os.environ | {"PYTHONPATH": str(self._folder), "PYTHONWARNINGS": "error"} | more

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments until it exits."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environ(**environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


# Plugins that work

TRANSPORT = """
from mb_core import WireTransport, hookimpl
from mb_tcp.wire import LengthPrefixWire

@hookimpl
def mb_register_transports():
    return [
        WireTransport(
            "acme",
            lambda url, limits: LengthPrefixWire(limits),
            lambda limits, site: LengthPrefixWire(limits),
            default_port=7070,
        )
    ]
"""

CODEC = """
from ast import literal_eval
from mb_core import hookimpl

class Repr:
    name = "repr"
    def encode(self, payload):
        return repr(payload).encode()
    def decode(self, data, kind):
        return literal_eval(data.decode())

@hookimpl
def mb_register_codecs():
    return [Repr()]
"""

FRONTEND = """
from mb_core import Frontend, MessageBrokerClient, hookimpl

class Windows(MessageBrokerClient):
    pass

@hookimpl
def mb_register_frontends():
    return [Frontend("windows", Windows)]
"""

OBSERVER = """
from mb_core import hookimpl

@hookimpl
def mb_connected(url, again):
    print("connected to", url.scheme, again)

@hookimpl
def mb_message_received(message):
    print("received", message.action.value, message.topic)
"""
