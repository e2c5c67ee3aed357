"""The plugins that this distribution provides."""

from __future__ import annotations

from mb_core.hookspecs import hookimpl
from mb_core.transport import Transport

from .memory_transport import MemoryTransport

__all__ = ["mb_register_transports"]


@hookimpl
def mb_register_transports() -> list[Transport]:
    return [MemoryTransport()]
