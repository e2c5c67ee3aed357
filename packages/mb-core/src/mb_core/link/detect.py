"""Which event loop is running."""

from __future__ import annotations

import sys

from .contract import Backend

__all__ = ["current_backend"]


def current_backend() -> Backend:
    """The Backend of the running event loop; raises RuntimeError where none runs.

    The loops' own modules are imported when first needed: trio's users do not pay for asyncio,
    and trio need not be installed.
    """
    # Until another thread has imported all of trio, it has no such attribute and no loop.
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    if lowlevel is not None and lowlevel.in_trio_task():
        from .trio_backend import TrioBackend

        return TrioBackend()
    from .asyncio_backend import AsyncioBackend

    return AsyncioBackend()
