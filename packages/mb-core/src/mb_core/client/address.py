"""From what the user says to where the connection goes."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import ConnectError
from ..link import Address
from ..transport import SocketAddress, WireTransport, port_of
from ..url import URL, parse_url, redacted
from .arguments import check_options

__all__ = ["CONNECT_TO", "broker_url", "stream_address"]

CONNECT_TO = "MB_CONNECT_TO"
"""The environment variable that sends connections elsewhere: `HOST:PORT=HOST:PORT`, several
joined by commas.  Only the address that is dialled changes, as with curl's --connect-to: URL,
Host header and the name in the certificate stay what the program said."""


def broker_url(target: str, port: int | None, use_tls: bool, scheme: str) -> URL:
    """The URL for connect's arguments: a URL, or a host and a port with a default scheme.

    Raises ConnectError for a host and a port that lead nowhere, LocalProtocolError for another
    type of host or use_tls.
    """
    check_options(host=target, use_tls=use_tls)
    if "://" in target:
        if port is not None or use_tls:
            raise ConnectError(
                f"pass neither port nor use_tls with a URL, which has both: {redacted(target)!r} "
                "(wss:// and tls:// are the encrypted schemes)",
                final=True,
            )
        return parse_url(target)
    if not isinstance(port, int):
        raise ConnectError(
            f"the host {redacted(target)!r} needs a port: pass one, or a URL such as tcp://localhost:8081",
            final=True,
        )
    host = f"[{target}]" if ":" in target and not target.startswith("[") else target
    url = parse_url(f"{scheme}://{host}:{port}")
    if url.port != port or url.path:
        raise ConnectError(
            f"invalid host {redacted(target)!r}: expected a name or an address, nothing more",
            final=True,
        )
    return url


def stream_address(
    url: URL, transport: WireTransport, environ: Mapping[str, str] = os.environ
) -> Address | SocketAddress:
    """Where to open a stream to."""
    if transport.sockets is not None:
        return transport.sockets.address(url)
    if not url.host:
        raise ConnectError(f"the URL {url} names no host", final=True)
    port = port_of(url, transport)
    for rule in environ.get(CONNECT_TO, "").split(","):
        if not rule.strip():
            continue
        given, _, instead = rule.partition("=")
        given_host, given_port = _host_and_port(given)
        if given_host.lower() == url.host.lower() and given_port == str(port):
            host, number = _host_and_port(instead)
            if not host or not number.isdecimal() or int(number) > 65_535:
                raise ConnectError(
                    f"{CONNECT_TO} has the rule {rule.strip()!r}: expected HOST:PORT=HOST:PORT",
                    final=True,
                )
            return host, int(number)
    return url.host, port


def _host_and_port(text: str) -> tuple[str, str]:
    """The two parts of `HOST:PORT`, or of `[IPv6]:PORT`."""
    host, _, port = text.strip().rpartition(":")
    return host.strip("[]"), port
