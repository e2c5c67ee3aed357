"""What the distribution registers."""

from __future__ import annotations

import pytest

from mb_core.plugins import installed_plugins
from mb_core.transport import WireTransport
from mb_core.url import parse_url
from mb_core.wire import Limits, WireState
from mb_tcp import LengthPrefixWire


@pytest.mark.parametrize(("scheme", "port", "secure"), [("tcp", 8081, False), ("tls", 8444, True)])
def test_the_scheme_is_found_with_its_default_port(scheme: str, port: int, secure: bool) -> None:
    transport = installed_plugins().transport(scheme)
    assert isinstance(transport, WireTransport)
    assert (transport.scheme, transport.default_port, transport.secure) == (scheme, port, secure)


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_both_sides_speak_with_each_other_within_the_limits(scheme: str) -> None:
    transport = installed_plugins().transport(scheme)
    assert isinstance(transport, WireTransport)
    limits = Limits(max_message=5)
    client = transport.client(parse_url(f"{scheme}://a.b"), limits)
    server = transport.server(limits)
    for sender, receiver in [(client, server), (server, client)]:
        assert isinstance(sender, LengthPrefixWire)
        sender.send(b"12345")
        assert receiver.receive_data(sender.data_to_send()) == [b"12345"]
        sender.send(b"123456")
        assert receiver.receive_data(sender.data_to_send()) == []
        assert receiver.state is WireState.CLOSED
