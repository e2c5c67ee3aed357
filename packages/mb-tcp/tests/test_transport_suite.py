"""tcp:// and tls:// pass the suite that third parties run on their transports."""

from __future__ import annotations

from mb_tcp.plugin import mb_register_transports
from mb_testing import TransportSuite

TCP, TLS = mb_register_transports()


class TestTcp(TransportSuite):
    transport = TCP


class TestTls(TransportSuite):
    transport = TLS
