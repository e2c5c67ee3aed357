"""What the distribution registers."""

from __future__ import annotations

import pytest

from mb_core.plugins import installed_plugins
from mb_core.transport import WireTransport
from mb_core.url import parse_url
from mb_core.wire import Limits, WireState


@pytest.mark.parametrize(("scheme", "port", "secure"), [("ws", 8080, False), ("wss", 8443, True)])
def test_the_scheme_is_found_with_its_default_port(scheme: str, port: int, secure: bool) -> None:
    transport = installed_plugins().transport(scheme)
    assert isinstance(transport, WireTransport)
    assert (transport.scheme, transport.default_port, transport.secure) == (scheme, port, secure)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_both_sides_shake_hands(scheme: str) -> None:
    transport = installed_plugins().transport(scheme)
    assert isinstance(transport, WireTransport)
    client = transport.client(parse_url(f"{scheme}://a.b"), Limits())
    server = transport.server(Limits())
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    assert client.state is server.state is WireState.OPEN
