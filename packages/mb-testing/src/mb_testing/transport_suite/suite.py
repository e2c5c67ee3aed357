"""TransportSuite, which authors of transports subclass."""

from __future__ import annotations

from typing import Any

from mb_core.transport import WireTransport

from ..conformance import EventLoops
from .client_and_broker import ClientAndBroker
from .link_endings import LinkEndings
from .link_messages import LinkMessages
from .link_pressure import LinkPressure
from .listening import Listening, SocketListening, StreamListening
from .wire_endings import WireEndings, WireUntrustedInput
from .wire_messages import WireLimits, WireMessages

__all__ = ["TransportSuite"]


class _OverStreams(
    WireMessages, WireLimits, WireEndings, WireUntrustedInput, LinkPressure, StreamListening
):
    """What holds for a transport over a byte stream, with Wires."""


class TransportSuite(
    _OverStreams, SocketListening, LinkMessages, LinkEndings, Listening, ClientAndBroker, EventLoops
):
    """The conformance suite. A transport that passes it works under the client and the broker.

    Example::

        class TestUnix(TransportSuite):
            transport = UNIX

            def url(self, tmp_path):
                return f"unix://{tmp_path}/mb.sock"

    pytest runs it on asyncio and, if it is installed, on trio. Tests that don't apply are left out:
    for a `LinkTransport`, those of Wires and byte streams; without `sockets`, those of sockets. A
    test that fails raises ContractBroken, which shows what happened, what is expected, and where
    that is documented.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        transport = getattr(cls, "transport", None)
        if transport is not None and not isinstance(transport, WireTransport):
            cls._leave_out(_OverStreams, SocketListening)
        elif transport is not None and transport.sockets is None:
            cls._leave_out(SocketListening)

    @classmethod
    def _leave_out(cls, *parts: type) -> None:
        for part in parts:
            for name in dir(part):
                if name.startswith("test_"):
                    setattr(cls, name, None)  # which pytest does not take for a test
