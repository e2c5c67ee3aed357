"""TLS as a Wire around another Wire, and its secure settings.

The TLS implementations of the event loops differ in how they report a failed handshake, in time
limits, and in how they close while data is in transit. Without I/O, it is the same everywhere, with
the time limits, logging and closing of every Wire.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

from ..authenticators import NO_CREDENTIALS, Credentials
from ..errors import ConnectError, MBError
from ..wire import Wire, WireState, credentials_of, is_held_back
from .contract import Address, SocketAddress, StreamOptions
from .sockets import address_text
from .tls_errors import accepted_error, dialled_error, early_end

__all__ = ["TlsWire", "client_ssl_context", "dialled_wire", "received_nothing", "wire_factory"]

# A TLS record holds at most 16 KiB.
_RECORD = 16_384
# Limits on a certificate, which can have 100 KiB: the broker keeps the names with the connection.
_MAX_NAMES = 100
_MAX_NAME = 1_000


def client_ssl_context(cafile: str | None = None) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer that verifies certificate and host name.

    It trusts the certificates in `cafile`, by default the system's.  The host must be one of the
    certificate's alternative names (subjectAltName); as in browsers, its common name does not
    count (RFC 9525).  A context that a user passes is used as it is.  Raises OSError, such as
    ssl.SSLError, if the file can't be used.
    """
    context = ssl.create_default_context(cafile=cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    return context


def dialled_wire(wire: Wire, address: Address | SocketAddress, options: StreamOptions) -> Wire:
    """Return the Wire for a stream to `address`, in TLS if the options say so."""
    context = options.ssl_context
    if context is None:
        return wire
    name = options.server_hostname
    if name is None and not isinstance(address, SocketAddress):
        name = address[0]
    return TlsWire(wire, context, server_hostname=name, where=address_text(address))


def wire_factory(make: Callable[[], Wire], options: StreamOptions) -> Callable[[], Wire]:
    """Return a factory for the Wires of accepted streams, in TLS if the options say so."""
    context = options.ssl_context
    if context is None:
        return make
    secure = context

    def make_secure() -> Wire:
        return TlsWire(make(), secure, server_side=True)

    make_secure()  # raises for invalid settings now, not for each stream
    return make_secure


def received_nothing(wire: Wire, received: int) -> bool:
    """Return whether none of the `received` bytes was for the Wire, only for TLS's handshake."""
    return received == 0 or (isinstance(wire, TlsWire) and wire.only_handshake)


class TlsWire:
    """A Wire that encrypts the stream of another Wire.

    Its handshake comes first, its close_notify last.  A stream may end without one, since the
    inner Wire has a framing of its own.  Raises ConnectError (final) for settings with which TLS
    does not work.

    A client's ConnectError about certificates is final.  In TLS 1.3, a server refuses the client's
    certificate after the handshake is complete on this side; that is a ConnectError, too.
    """

    def __init__(
        self,
        wire: Wire,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        where: str | None = None,
    ) -> None:
        self._wire = wire
        self._server_side = server_side
        self._where = where  # the address of a server, for errors
        self._fault: MBError | None = None
        self._established = False  # whether the handshake is complete
        self._began = False  # whether any data for the inner Wire has arrived
        self._close_notify_sent = False  # whether close_notify was sent
        self._unsent = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            if context.check_hostname and not server_side and server_hostname is None:
                raise ValueError("the certificate's name can't be checked without a server's name")
            self._tls = context.wrap_bio(
                self._incoming,
                self._outgoing,
                server_side=server_side,
                server_hostname=server_hostname,
            )
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()  # the client's first message
        except (TypeError, ValueError, ssl.SSLError) as error:
            raise ConnectError(f"no TLS with these settings: {error}", final=True) from error

    @property
    def state(self) -> WireState:
        if self._fault is not None:
            return WireState.CLOSED
        state = self._wire.state
        return state if self._established or state is WireState.CLOSED else WireState.HANDSHAKE

    @property
    def error(self) -> MBError | None:
        return self._fault or self._wire.error

    @property
    def only_handshake(self) -> bool:
        """Whether the handshake is complete, and nothing else has arrived."""
        return self._established and not self._began and self._fault is None

    @property
    def held_back(self) -> bool:
        """Whether the inner Wire has more to read, and therefore perhaps this one."""
        return self._fault is None and is_held_back(self._wire)

    @property
    def credentials(self) -> Credentials:
        """What the inner Wire knows about a client, and the names in its verified certificate."""
        if not self._server_side or not self._established:
            return NO_CREDENTIALS
        names = _verified_names(self._tls)
        return msgspec.structs.replace(credentials_of(self._wire), certificate=names)

    def receive_data(self, data: bytes) -> list[bytes]:
        messages: list[bytes] = []
        if self.state is WireState.CLOSED:
            return messages
        self._incoming.write(data)
        try:
            if not self._established:
                self._tls.do_handshake()
                self._established = True
            if is_held_back(self._wire):
                messages += self._wire.receive_data(b"")
            while self._wire.state is not WireState.CLOSED and not is_held_back(self._wire):
                decrypted = self._tls.read(_RECORD)
                if not decrypted:  # the other side's close_notify
                    self._wire.receive_eof()
                    break
                self._began = True
                messages += self._wire.receive_data(decrypted)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fault = self._explained(error)
        return messages

    def receive_eof(self) -> None:
        if self.state is WireState.CLOSED:
            return
        if self._established:
            self._wire.receive_eof()
        else:
            agreed = self._tls.cipher() is not None
            self._fault = early_end(self._where, agreed=agreed)

    def send(self, message: bytes) -> int:
        return self._wire.send(message)

    def close(self, reason: str = "") -> None:
        self._wire.close(reason)

    def data_to_send(self) -> bytes:
        if self._established and self._fault is None and not self._close_notify_sent:
            self._encrypt(self._wire.data_to_send())
            if self._wire.state is WireState.CLOSED and not self._unsent:
                self._close_notify_sent = True
                # Sends ours; the exception only says that the other side's has not arrived.
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()
        return self._outgoing.read()

    def _encrypt(self, data: bytes) -> None:
        data = self._unsent + data
        rest = memoryview(data)
        # During a renegotiation, which TLS 1.2 allows, output waits for input.
        with contextlib.suppress(ssl.SSLWantReadError):
            while rest:
                rest = rest[self._tls.write(rest) :]
        self._unsent = bytes(rest)

    def _explained(self, error: ssl.SSLError) -> MBError:
        if self._where is None:
            return accepted_error(error, established=self._established)
        agreed = self._tls.cipher() is not None
        return dialled_error(error, self._where, agreed=agreed, established=self._established)


def _verified_names(tls: ssl.SSLObject) -> tuple[str, ...]:
    """Return the names in the client's certificate; none if the context has not verified it.

    Names are compared as a whole, so that a wildcard is only itself. Names that can't be printed
    are left out: with a NUL or invisible character, they only look like another name.
    """
    try:
        certificate = tls.getpeercert()  # empty if it was not verified
    except (ValueError, ssl.SSLError):  # for example, a name that is not UTF-8
        return ()
    return tuple(islice(_names(certificate or {}), _MAX_NAMES))


def _names(certificate: dict[str, Any]) -> Iterator[str]:
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in ("URI", "DNS") and _is_plain(value):
            yield f"{kind}:{value.lower() if kind == 'DNS' else value}"
    for attributes in certificate.get("subject", ()):
        for kind, value in attributes:
            if kind == "commonName" and _is_plain(value):
                yield f"CN={value}"


def _is_plain(name: str) -> bool:
    return name.isprintable() and 0 < len(name) <= _MAX_NAME
