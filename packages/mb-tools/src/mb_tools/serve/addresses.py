"""Where `mb serve` listens, and who could connect there."""

from __future__ import annotations

import socket
from typing import NamedTuple

from msgspec.structs import replace

from mb_broker.http import is_loopback
from mb_broker.memory_transport import MemoryTransport
from mb_client import PluginError, installed_plugins
from mb_core.transport import Transport, WireTransport
from mb_core.url import URL, parse_url

from ..errors import Failure, Status
from .options import OFF, PORTS, ServeOptions

__all__ = ["Address", "addresses", "check_open", "urls"]

# Not on Windows.
_AF_UNIX = getattr(socket, "AF_UNIX", None)


class Address(NamedTuple):
    """A URL to listen on, with its query, which may be a secret.

    Attributes:
        url: As it is given to the broker.
        parsed: Its parts.
        transport: That of its scheme.
        local: Whether only this machine can connect.
        certified: Whether clients must present a certificate.
    """

    url: str
    parsed: URL
    transport: Transport
    local: bool
    certified: bool

    @property
    def needs_certificate(self) -> bool:
        """Whether the broker needs a certificate of its own to listen there."""
        return bool(getattr(self.transport, "secure", False))


def urls(options: ServeOptions) -> list[str]:
    """Return the URLs to listen on; those in `listen` without a host get that of the option
    `host`."""
    return [*_ports(options).values(), *(_with_host(url, options) for url in options.listen)]


def addresses(options: ServeOptions) -> list[Address]:
    """Return where the broker listens with these options.

    Raises PluginError if a scheme is not installed, and ConnectError for an invalid URL.
    """
    found = []
    for url in urls(options):
        parsed = parse_url(url)
        transport = installed_plugins().transport(parsed.scheme)
        # Other kinds of transports get no ssl_context from the broker.
        secure = isinstance(transport, WireTransport) and transport.secure
        certified = secure and options.tls_client_ca is not None
        found.append(Address(url, parsed, transport, _is_local(parsed, transport), certified))
    return found


def check_open(options: ServeOptions) -> None:
    """Raise Failure if other machines could do everything, and the options don't allow it."""
    if options.open or options.access is not None:
        return
    exposed = [each for each in addresses(options) if not each.local and not each.certified]
    if not exposed:
        return
    them = "it" if len(exposed) == 1 else "them"
    # Their queries may hold secrets.
    text = " and ".join(", ".join(str(each.parsed) for each in exposed).rsplit(", ", 1))
    raise Failure(
        f"{text} would be open to everyone who can reach {them}: add --access FILE (users with "
        f"tokens), or {_certificates(exposed, options)}, or --open to allow it",
        Status.USAGE,
    )


def _certificates(exposed: list[Address], options: ServeOptions) -> str:
    """Return what would make client certificates protect these addresses."""
    if options.tls_client_ca is None:
        only = "" if all(each.needs_certificate for each in exposed) else " with only TLS ports"
        return f"--tls-client-ca FILE{only} (client certificates)"
    them = {each.url for each in exposed}
    remedies = [
        f"--{name.replace('_', '-')} off" for name, url in _ports(options).items() if url in them
    ]
    remedies = [" ".join(remedies)] if remedies else []
    listed = [url for url in options.listen if _with_host(url, options) in them]
    if listed:
        remedies.append(f"remove {'it' if len(exposed) == 1 else 'them'} from listen")
    return f"{' and '.join(remedies)} (--tls-client-ca protects only ports with TLS)"


def _is_local(url: URL, transport: Transport) -> bool:
    """Return whether only programs on this machine can connect.

    Only what is known to be local counts. Names other than localhost don't, because what they
    resolve to can change, and neither do transports of other packages, which are free to listen
    anywhere, unless their URL has a loopback address as its host, or they use Unix sockets.
    """
    if isinstance(transport, MemoryTransport):
        return True
    sockets = transport.sockets if isinstance(transport, WireTransport) else None
    if sockets is not None and sockets.address(url).family == _AF_UNIX:
        return True
    return is_loopback(url.host)


def _with_host(text: str, options: ServeOptions) -> str:
    url = parse_url(text)
    if url.host:
        return text
    try:
        transport = installed_plugins().transport(url.scheme)
    except PluginError:
        return text  # the broker reports what is missing
    if not isinstance(transport, WireTransport) or transport.sockets is not None:
        return text  # its URLs have no hosts, such as memory:// and unix://
    return replace(url, host=options.host).full


def _ports(options: ServeOptions) -> dict[str, str]:
    """Return the URLs for the port options, by option name."""
    host = options.host
    host = f"[{host}]" if ":" in host else host
    return {
        name: f"{name.removesuffix('_port')}://{host}:{getattr(options, name)}"
        for name in PORTS
        if getattr(options, name) != OFF
    }
