"""ws:// and wss:// pass the suite that third parties run on their transports."""

from __future__ import annotations

from mb_testing import TransportSuite
from mb_ws.plugin import mb_register_transports

WS, WSS = mb_register_transports()


class TestWs(TransportSuite):
    transport = WS


class TestWss(TransportSuite):
    transport = WSS
