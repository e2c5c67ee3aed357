"""Plugins that register what a test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mb_core import hookimpl
from mb_core.plugins import registry


class Carrier:
    """A LinkTransport."""

    def __init__(self, scheme: Any = "carrier") -> None:
        self.scheme = scheme

    async def connect(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("no connection is made here")

    listen = connect


class Module:
    """A plugin, as if it were a module: its attributes are functions."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            setattr(self, name, hookimpl(function))


def giving(given: Any) -> Module:
    """A plugin whose hook returns `given`, or what calling it gives."""
    return Module(mb_register_transports=lambda: given() if callable(given) else given)


def failing() -> Any:
    raise RuntimeError("no carrier")


def wrong_signature() -> object:
    return Module(mb_register_transports=lambda session: [Carrier()])


def wrong_name() -> object:
    return Module(mb_register_transport=lambda: [Carrier()])


@dataclass
class Distribution:
    name: str
    version: str = "1.0"


@dataclass
class EntryPoint:
    """What installed_plugins uses of an importlib.metadata.EntryPoint."""

    name: str
    dist: Distribution | None
    load: Callable[[], object]
    group: str = "mb.transports"
    value: str = "module"


def entry_point(package: str, name: str, plugin: object, group: str = "mb.transports") -> Any:
    """An entry point of a package; loading it gives `plugin`, or raises it."""

    def load() -> object:
        if isinstance(plugin, BaseException):
            raise plugin
        return plugin

    return EntryPoint(name, Distribution(package), load, group, package.replace("-", "_"))


Install = Callable[..., list[str]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make these entry points the installed ones; gives a list of the times they were read."""
    read: list[str] = []

    def replace(*entry_points: EntryPoint) -> list[str]:
        def entries() -> tuple[EntryPoint, ...]:
            read.append("read")
            return entry_points

        monkeypatch.setattr(registry, "read_entry_points", entries)
        return read

    monkeypatch.setattr(registry, "_found", {})
    return replace


class Plain:
    """A codec."""

    def __init__(self, name: Any = "plain") -> None:
        self.name = name

    def encode(self, payload: Any) -> bytes:
        return str(payload).encode()

    def decode(self, data: bytes, kind: Any) -> Any:
        return data.decode()
