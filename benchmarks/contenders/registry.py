"""The list of contenders.  A module is imported by the process that measures it, and by no other.

Each module has `measure(messages, *arguments)`, which starts what it needs, measures, and ends it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
from dataclasses import dataclass

from ..cases import Figures
from ..processes import find_program, program

__all__ = ["BY_NAME", "CONTENDERS", "Contender", "Program"]


@dataclass(frozen=True, slots=True)
class Program:
    """A server that others made."""

    name: str
    debian: str
    """The package that has it."""
    version_option: str = "--version"

    def version(self) -> str:
        """Its version, by its own word; `unknown` where it has none."""
        command = [program(self.name), self.version_option]
        # mosquitto tells its version with its help alone, and then fails.
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
        return found[0] if found else "unknown"


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    module: str
    arguments: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    """What it needs from PyPI besides MB."""
    program: Program | None = None
    ours: bool = False

    def missing(self) -> str | None:
        """Why it can't be measured here, with the remedy; None if it can."""
        for distribution in ("hdrhistogram", *self.distributions):
            try:
                importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                return f"{distribution} is not installed (uv run --group bench)"
        if self.program is not None and find_program(self.program.name) is None:
            remedy = f"Debian: apt-get install {self.program.debian}"
            return f"{self.program.name} is not installed ({remedy})"
        return None

    def measure(self, messages: int) -> Figures:
        """Measure one round in this process."""
        module = importlib.import_module(f"{__package__}.{self.module}")
        found: Figures = module.measure(messages, *self.arguments)
        return found

    def versions(self) -> dict[str, str]:
        """The versions of what it needs, by name."""
        found = {name: importlib.metadata.version(name) for name in self.distributions}
        return found | ({self.program.name: self.program.version()} if self.program else {})


CONTENDERS = (
    Contender("mb tcp", "mb", ("tcp", "asyncio"), ours=True),
    Contender("mb ws", "mb", ("ws", "asyncio"), ours=True),
    Contender("mb memory", "mb_memory", ("asyncio",), ours=True),
    Contender("mb tcp, trio", "mb", ("tcp", "trio"), ours=True),
    Contender("mb ws, trio", "mb", ("ws", "trio"), ours=True),
    Contender("mb memory, trio", "mb_memory", ("trio",), ours=True),
    # These two have their service in a process of its own, so that threads wait for the other
    # side alone, as they do in a program that blocks.
    Contender("mb tcp, service apart", "mb_apart", ours=True),
    Contender("mb_sync tcp, service apart", "mb_blocking", ours=True),
    Contender("nats-py", "nats", (), ("nats-py",), Program("nats-server", "nats-server")),
    Contender(
        "redis-py", "redis", (), ("redis", "hiredis"), Program("redis-server", "redis-server")
    ),
    Contender("aiomqtt", "mqtt", (), ("aiomqtt",), Program("mosquitto", "mosquitto", "-h")),
    Contender("websockets relay", "relay", (), ("websockets",)),
    # None at all, to see what is left when a library takes no time.
    Contender("asyncio, bare", "bare"),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}
