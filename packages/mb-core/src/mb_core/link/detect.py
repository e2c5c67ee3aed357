"""Detect the running event loop."""

from __future__ import annotations

import sys

from .contract import Backend

__all__ = ["current_backend"]


def current_backend() -> Backend:
    """Return the Backend of the running event loop; raises RuntimeError if none is running.

    The modules of an event loop are imported when they are first needed, so trio doesn't have to
    be installed, and programs on trio don't pay for asyncio.
    """
    # While another thread is importing trio, it has no such attribute and no loop.
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    if lowlevel is not None and lowlevel.in_trio_task():
        from .trio_backend import TrioBackend

        return TrioBackend()
    from .asyncio_backend import AsyncioBackend

    return AsyncioBackend()
