"""Importing a stranger's module: whatever it does, we go on."""

from __future__ import annotations

import threading
from importlib import metadata
from typing import Any

from ..errors import PluginError

__all__ = ["LOAD_LIMIT", "load", "owner_of"]

LOAD_LIMIT = 5.0
"""Seconds that importing a plugin may take."""


def owner_of(entry_point: metadata.EntryPoint) -> str:
    """The name of a plugin: that of its distribution."""
    return entry_point.dist.name if entry_point.dist is not None else entry_point.name


def load(entry_point: metadata.EntryPoint, limit: float = LOAD_LIMIT) -> Any:
    """Import what an entry point names; raises PluginError that says why it can't be.

    In a thread, which is left alone after `limit` seconds: a module that never gets to its end,
    or that ends the program, must not do that to whoever has it installed.
    """
    loaded: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            loaded.append(entry_point.load())
        except BaseException as error:
            failed.append(error)

    owner = owner_of(entry_point)
    thread = threading.Thread(target=run, name=f"mb imports {owner}", daemon=True)
    thread.start()
    thread.join(limit)
    if loaded:
        return loaded[0]
    if not failed:
        raise PluginError(f"{entry_point.value} was still being imported after {limit:g} s")
    error = failed[0]
    raise PluginError(
        f"{entry_point.value} can't be imported: {type(error).__name__}: {error}"
    ) from error
