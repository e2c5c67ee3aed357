"""Finding and importing plugins beside a running event loop."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Collection
from typing import TypeVar

from ..errors import ConnectError
from ..link import current_backend
from .registry import Plugins, found_plugins, installed_plugins

__all__ = ["discover", "in_worker"]

T = TypeVar("T")


async def discover(plugins: Plugins | None, schemes: Collection[str]) -> Plugins:
    """Return `plugins`, or those that are installed, with what `schemes` need imported.

    Reading entry points and importing packages can take tens of milliseconds: it happens in a
    worker thread, so that other tasks run meanwhile.  Plugins that fail raise later, where they
    are asked for.  Raises ConnectError where the system can't read what is installed, as when this
    process has no descriptor left.  When cancelled, the thread finishes by itself.
    """

    def find() -> Plugins:
        # Whatever of anyio is used first imports this, which takes as long as a transport.
        with contextlib.suppress(ImportError):
            importlib.import_module(f"anyio._backends._{name}")
        found = plugins if plugins is not None else installed_plugins()
        found.load(schemes)
        return found

    name = current_backend().name
    try:
        known = plugins if plugins is not None else found_plugins()
        if known is not None and known.loaded(schemes):
            return known
        return await in_worker(find)
    except OSError as error:
        from ..link.streams import system_error  # not for those that have no trouble

        text = f"can't read the installed plugins: {system_error(error)}"
        raise ConnectError(text) from error


async def in_worker(function: Callable[[], T]) -> T:
    """Call `function` in a worker thread, or here where no thread can be started.

    When cancelled, the thread goes on by itself.
    """
    started = False

    def call() -> T:
        nonlocal started
        started = True
        return function()

    try:
        return await current_backend().in_worker(call)
    except RuntimeError:
        # The interpreter is shutting down, or the system has no thread left.
        if started:
            raise
        return function()
