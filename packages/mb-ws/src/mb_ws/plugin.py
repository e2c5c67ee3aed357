"""What this distribution registers (entry-point group `mb`)."""

from __future__ import annotations

from mb_core.hookspecs import hookimpl
from mb_core.transport import WireTransport

from .wire import client_wire, server_wire

__all__ = ["mb_register_transports"]


@hookimpl
def mb_register_transports() -> list[WireTransport]:
    return [
        WireTransport(
            "ws", default_port=8080, secure=False, client=client_wire, server=server_wire
        ),
        WireTransport(
            "wss", default_port=8443, secure=True, client=client_wire, server=server_wire
        ),
    ]
