"""unix:///path for MB: a broker and its clients on one machine."""

from mb_core import WireTransport, hookimpl

from .sockets import UnixSockets
from .wire import UnixWire

UNIX = WireTransport(
    scheme="unix",
    client=lambda url, limits: UnixWire(limits),
    server=lambda limits, site: UnixWire(limits),
    sockets=UnixSockets(),
)


@hookimpl
def mb_register_transports():
    return [UNIX]
