"""From what the user says to where the connection goes."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import ConnectError
from ..link import Address
from ..transport import WireTransport
from ..url import URL, parse_url

__all__ = ["CONNECT_TO", "broker_url", "dial_address"]

CONNECT_TO = "MB_CONNECT_TO"
"""The environment variable that sends connections elsewhere: `HOST:PORT=HOST:PORT`, several
joined by commas.  Only the address that is dialled changes, as with curl's --connect-to: URL,
Host header and the name in the certificate stay what the program said."""


def broker_url(target: str, port: int | None, use_tls: bool, scheme: str) -> URL:
    """The URL for connect's arguments: a URL, or a host and a port with a default scheme."""
    if "://" in target:
        if port is not None or use_tls:
            raise ConnectError(
                f"the URL {target!r} says it all: no port and no use_tls beside it "
                "(wss:// and tls:// are the encrypted schemes)"
            )
        return parse_url(target)
    if not isinstance(port, int):
        raise ConnectError(
            f"a port is needed with the host {target!r}, or a URL such as tcp://{target}:8081"
        )
    host = f"[{target}]" if ":" in target and not target.startswith("[") else target
    return parse_url(f"{scheme}://{host}:{port}")


def dial_address(
    url: URL, transport: WireTransport, environ: Mapping[str, str] = os.environ
) -> Address:
    """Host and port to open a stream to."""
    if not url.host:
        raise ConnectError(f"the URL {url} names no host")
    port = url.port if url.port is not None else transport.default_port
    for rule in environ.get(CONNECT_TO, "").split(","):
        if not rule.strip():
            continue
        given, _, instead = rule.strip().partition("=")
        if given.lower() == f"{url.host}:{port}".lower():
            host, _, number = instead.rpartition(":")
            if not host or not number.isdecimal():
                raise ConnectError(
                    f"{CONNECT_TO} has the rule {rule!r}: expected HOST:PORT=HOST:PORT"
                )
            return host.strip("[]"), int(number)
    return url.host, port
