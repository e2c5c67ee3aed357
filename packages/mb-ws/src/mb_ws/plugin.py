"""The plugin that this distribution provides."""

from __future__ import annotations

from mb_core.hookspecs import hookimpl
from mb_core.transport import WireTransport

from .wire import client_wire, server_wire

__all__ = ["mb_register_transports"]


@hookimpl
def mb_register_transports() -> list[WireTransport]:
    return [
        WireTransport(
            "ws", client_wire, server_wire, default_port=8080, client_with_token=client_wire
        ),
        WireTransport(
            "wss",
            client_wire,
            server_wire,
            default_port=8443,
            secure=True,
            client_with_token=client_wire,
        ),
    ]
