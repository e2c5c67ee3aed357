"""The plugin that this distribution provides."""

from __future__ import annotations

from mb_core.hookspecs import hookimpl
from mb_core.transport import WireTransport
from mb_core.url import URL
from mb_core.wire import Limits, Site

from .wire import LengthPrefixWire

__all__ = ["mb_register_transports"]


@hookimpl
def mb_register_transports() -> list[WireTransport]:
    return [
        WireTransport("tcp", _client, _server, default_port=8081),
        WireTransport("tls", _client, _server, default_port=8444, secure=True),
    ]


def _client(url: URL, limits: Limits) -> LengthPrefixWire:
    return LengthPrefixWire(limits)


def _server(limits: Limits, site: Site | None = None) -> LengthPrefixWire:
    return LengthPrefixWire(limits)
