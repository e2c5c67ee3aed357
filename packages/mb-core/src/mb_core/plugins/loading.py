"""Importing a stranger's module: whatever it does, we go on."""

from __future__ import annotations

import threading
import time
from importlib import metadata
from typing import Any

from ..errors import PluginError

__all__ = ["FAULTS", "LOAD_LIMIT", "Loading", "StillLoading", "owner_of"]

LOAD_LIMIT = 5.0
"""Seconds that importing a plugin may take."""

FAULTS = (Exception, SystemExit)
"""What a stranger's code may raise at us; Ctrl-C is the user's."""


class StillLoading(PluginError):
    """A plugin has not come to the end of its import."""


class Loading:
    """The import of what an entry point names, begun now.

    In a thread, which is left alone where it takes too long: a module that never gets to its
    end, or that ends the program, must not do that to whoever has it installed.
    """

    def __init__(self, entry_point: metadata.EntryPoint, limit: float) -> None:
        self._entry_point = entry_point
        self._limit = limit
        self._until = time.monotonic() + limit
        self._plugin: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"mb imports {owner_of(entry_point)}", daemon=True
        )
        self._thread.start()

    def result(self) -> Any:
        """What was imported, waited for until `limit` seconds after the beginning.

        Raises StillLoading where that has passed, though a later call may find it there, and
        PluginError, from what the import has raised.
        """
        self._thread.join(max(0.0, self._until - time.monotonic()))
        what = self._entry_point.value
        if self._thread.is_alive():
            raise StillLoading(f"{what} was still being imported after {self._limit:g} s")
        if self._error is not None:
            raised = type(self._error).__name__
            raise PluginError(f"{what} can't be imported: {raised}: {self._error}") from self._error
        return self._plugin

    def _run(self) -> None:
        try:
            self._plugin = self._entry_point.load()
        except BaseException as error:
            self._error = error


def owner_of(entry_point: metadata.EntryPoint) -> str:
    """The name of a plugin: that of its distribution."""
    return entry_point.dist.name if entry_point.dist is not None else entry_point.name
