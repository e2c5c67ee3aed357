"""The public names, and what importing them does not do."""

from __future__ import annotations

import importlib.resources
import subprocess
import sys
import types

import pytest

import mb_client
import mb_core


def sorted_as_ruff_does(names: list[str]) -> list[str]:
    """Constants, classes, functions; each in alphabetical order."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


@pytest.mark.parametrize("package", [mb_core, mb_client], ids=lambda each: each.__name__)
def test_all_is_sorted_and_complete(package: types.ModuleType) -> None:
    names = package.__all__
    assert names == sorted_as_ruff_does(names)
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(names) == public


def test_mb_client_has_all_names_of_the_core() -> None:
    for name in mb_core.__all__:
        assert getattr(mb_client, name) is getattr(mb_core, name)


def test_mb_client_has_the_broker_too() -> None:
    import mb_broker

    assert mb_client.Broker is mb_broker.Broker
    assert mb_client.running is mb_broker.running


def test_every_error_is_public() -> None:
    from mb_core import errors

    assert {name for name in errors.__all__ if name[0].isupper()} <= set(mb_core.__all__)


def test_every_public_name_says_what_it_is() -> None:
    undocumented = [
        name
        for name in mb_core.__all__
        if name not in ("hookimpl", "LogLevel") and not getattr(mb_core, name).__doc__
    ]
    assert undocumented == []


@pytest.mark.parametrize(
    "package", ["mb_core", "mb_client", "mb_broker", "mb_tcp", "mb_ws", "mb_testing", "mb_tools"]
)
def test_the_types_are_shipped(package: str) -> None:
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


# What importing does not do: a new process says, for here everything is imported already.


def modules_after(program: str) -> set[str]:
    """The modules that a program has imported when it exits."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(ended.stdout.split())


@pytest.fixture(scope="module")
def imported() -> set[str]:
    return modules_after("import mb_core")


@pytest.mark.parametrize("package", ["mb_tcp", "mb_ws", "mb_broker", "mb_client", "websockets"])
def test_importing_the_core_imports_no_transport(package: str, imported: set[str]) -> None:
    assert package not in imported


@pytest.mark.parametrize(
    "module",
    ["asyncio", "trio", "mb_core.link.asyncio_link", "mb_core.link.trio_link"],
)
def test_importing_the_core_imports_no_event_loop(module: str, imported: set[str]) -> None:
    assert module not in imported


def test_importing_the_core_reads_no_entry_points() -> None:
    program = """
import importlib.metadata

def entry_points(**_):
    raise AssertionError("entry points were read")

importlib.metadata.entry_points = entry_points
import mb_core
"""
    assert "mb_core.plugins" in modules_after(program)


def test_running_on_asyncio_does_not_import_trio() -> None:
    program = """
import asyncio, mb_core

async def main():
    try:
        await mb_core.MessageBrokerClient("memory://nobody").connect()
    except mb_core.ConnectError:
        pass

asyncio.run(main())
"""
    imported = modules_after(program)
    assert "mb_core.link.asyncio_link" in imported
    assert not {"trio", "mb_core.link.trio_link"} & imported
