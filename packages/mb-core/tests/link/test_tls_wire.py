"""TLS around a Wire, without I/O."""

from __future__ import annotations

import ssl
from itertools import pairwise
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.errors import ConnectError, MBError, MessageTooLarge, RemoteProtocolError
from mb_core.link.tls import TlsWire, client_ssl_context
from mb_core.url import URL
from mb_core.wire import Limits, Wire, WireState
from mb_tcp import LengthPrefixWire
from mb_ws import client_wire, server_wire

LIMITS = Limits(max_message=100_000)


@pytest.fixture(scope="module", params=["TLSv1_2", "TLSv1_3"])
def contexts(
    request: pytest.FixtureRequest, ca: trustme.CA
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's settings, for each version of TLS."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(client)
    client.maximum_version = client.minimum_version = ssl.TLSVersion[request.param]
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("broker.example").configure_cert(server)
    return client, server


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def wires(contexts: Contexts, inner: str = "tcp") -> tuple[TlsWire, TlsWire]:
    client: Wire = LengthPrefixWire(LIMITS)
    server: Wire = LengthPrefixWire(LIMITS)
    if inner == "ws":
        client = client_wire(URL("wss", "broker.example", None, "/"), LIMITS)
        server = server_wire(LIMITS)
    return (
        TlsWire(client, contexts[0], server_hostname="broker.example", where="broker.example:1"),
        TlsWire(server, contexts[1], server_side=True),
    )


def exchange(client: TlsWire, server: TlsWire) -> tuple[list[bytes], list[bytes]]:
    """Hand bytes over until both are silent; gives what the client and the server received."""
    to_client: list[bytes] = []
    to_server: list[bytes] = []
    while True:
        out, back = client.data_to_send(), server.data_to_send()
        if not out and not back:
            return to_client, to_server
        to_server += server.receive_data(out)
        to_client += client.receive_data(back)


def connected(contexts: Contexts, inner: str = "tcp") -> tuple[TlsWire, TlsWire]:
    client, server = wires(contexts, inner)
    assert exchange(client, server) == ([], [])
    assert client.state is server.state is WireState.OPEN
    return client, server


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    positions = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(positions)]


def test_a_client_speaks_first_and_both_are_in_the_handshake(contexts: Contexts) -> None:
    client, server = wires(contexts)
    assert client.state is server.state is WireState.HANDSHAKE
    assert client.data_to_send().startswith(b"\x16\x03")
    assert server.data_to_send() == b""


@pytest.mark.parametrize("inner", ["tcp", "ws"])
def test_the_wire_within_shakes_hands_behind_tls(contexts: Contexts, inner: str) -> None:
    client, server = connected(contexts, inner)
    client.send(b"from the client")
    server.send(b"from the server")
    assert exchange(client, server) == ([b"from the server"], [b"from the client"])
    assert client.error is server.error is None


def test_what_is_sent_is_not_readable(contexts: Contexts) -> None:
    client, _ = connected(contexts)
    client.send(b"secret" * 100)
    assert b"secret" not in client.data_to_send()


def test_the_handshake_works_one_byte_at_a_time(contexts: Contexts) -> None:
    client, server = wires(contexts, "ws")
    while client.state is WireState.HANDSHAKE or server.state is WireState.HANDSHAKE:
        out, back = client.data_to_send(), server.data_to_send()
        assert out or back
        for i in range(len(out)):
            assert server.receive_data(out[i : i + 1]) == []
        for i in range(len(back)):
            assert client.receive_data(back[i : i + 1]) == []
    assert client.state is server.state is WireState.OPEN


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_messages_are_the_same_however_their_bytes_are_cut(
    contexts: Contexts, data: st.DataObject
) -> None:
    client, server = connected(contexts)
    sender, receiver = data.draw(st.sampled_from([(client, server), (server, client)]))
    messages = data.draw(st.lists(st.binary(max_size=100), max_size=10))
    encrypted = b""
    for message in messages:
        sender.send(message)
        if data.draw(st.booleans()):
            encrypted += sender.data_to_send()
    encrypted += sender.data_to_send()
    cuts = data.draw(st.lists(st.integers(min_value=0), max_size=20))
    received = [m for piece in pieces(encrypted, cuts) for m in receiver.receive_data(piece)]
    assert received == messages


def test_much_is_sent_in_many_records(contexts: Contexts) -> None:
    client, server = connected(contexts)
    messages = [b"%d" % n + bytes(99_000) for n in range(30)]
    for message in messages:
        client.send(message)
    assert server.receive_data(client.data_to_send()) == messages


def test_a_fault_of_the_wire_within_is_the_fault_and_its_farewell_is_sent(
    contexts: Contexts,
) -> None:
    client, server = connected(contexts, "ws")
    client.send(b"one")
    client.send(bytes(100_001))
    client.send(b"three")
    assert server.receive_data(client.data_to_send()) == [b"one"]
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, MessageTooLarge)
    client.receive_data(server.data_to_send())
    assert isinstance(client.error, RemoteProtocolError)
    assert "1009" in str(client.error)


@pytest.mark.parametrize("client_begins", [True, False], ids=["by the client", "by the server"])
@pytest.mark.parametrize("inner", ["tcp", "ws"])
def test_closing_sends_what_is_queued_and_then_close_notify(
    contexts: Contexts, inner: str, client_begins: bool
) -> None:
    client, server = connected(contexts, inner)
    one, other = (client, server) if client_begins else (server, client)
    one.send(b"last words")
    one.close("bye")
    received = exchange(client, server)
    assert received == (([], [b"last words"]) if client_begins else ([b"last words"], []))
    # Without a word of the stream's own end.
    assert client.state is server.state is WireState.CLOSED
    for wire in (one, other):
        wire.receive_eof()
        wire.close()
        assert wire.error is None
        assert wire.data_to_send() == b""
        assert wire.receive_data(b"more") == []


def test_data_in_flight_in_the_other_direction_disturbs_no_closing(contexts: Contexts) -> None:
    client, server = connected(contexts)
    server.send(b"crossing" * 1000)
    crossing = server.data_to_send()
    client.send(b"last words")
    client.close()
    farewell = client.data_to_send()
    assert client.receive_data(crossing) == []
    assert client.error is None
    assert server.receive_data(farewell) == [b"last words"]
    assert server.state is WireState.CLOSED
    assert server.error is None


def test_behind_the_other_sides_close_notify_the_rest_goes_out(contexts: Contexts) -> None:
    client, server = connected(contexts)
    server.send(b"an answer")
    client.close()
    server.receive_data(client.data_to_send())
    assert server.state is WireState.CLOSED
    assert server.data_to_send() != b""


def test_an_end_without_close_notify_is_judged_by_the_wire_within(contexts: Contexts) -> None:
    client, server = connected(contexts)
    client.send(b"whole")
    assert server.receive_data(client.data_to_send()) == [b"whole"]
    server.receive_eof()
    server.receive_eof()
    assert server.state is WireState.CLOSED
    assert server.error is None

    client, server = connected(contexts)
    client.send(b"half" * 10_000)
    server.receive_data(client.data_to_send()[:20_000])
    server.receive_eof()
    assert isinstance(server.error, RemoteProtocolError)
    assert "within a message" in str(server.error)


@pytest.mark.parametrize("length", [0, 1, 5, 50])
@pytest.mark.parametrize("side", ["client", "server"])
def test_an_end_within_the_handshake_is_an_error(
    contexts: Contexts, side: str, length: int
) -> None:
    client, server = wires(contexts)
    if side == "server":
        server.receive_data(client.data_to_send()[:length])
        ended = server
    else:
        server.receive_data(client.data_to_send())
        client.receive_data(server.data_to_send()[:length])
        ended = client
    ended.receive_eof()
    assert ended.state is WireState.CLOSED
    assert isinstance(ended.error, ConnectError)
    assert ("is this a TLS port?" in str(ended.error)) is (side == "client")


@pytest.mark.parametrize("inner", ["tcp", "ws"])
@pytest.mark.parametrize("side", [0, 1], ids=["client", "server"])
def test_closing_within_the_handshake_ends_it_without_an_error(
    contexts: Contexts, side: int, inner: str
) -> None:
    wire = wires(contexts, inner)[side]
    wire.data_to_send()
    wire.close()
    assert wire.state is WireState.CLOSED
    wire.receive_eof()
    assert wire.error is None
    assert wire.data_to_send() == b""


def test_a_client_in_plain_text_is_refused(contexts: Contexts) -> None:
    _, server = wires(contexts)
    assert server.receive_data(b"GET / HTTP/1.1\r\n\r\n") == []
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, ConnectError)
    assert str(server.error) == "no TLS: HTTP_REQUEST"


def test_a_server_in_plain_text_asks_for_the_port(contexts: Contexts) -> None:
    client, _ = wires(contexts)
    client.receive_data(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(client.error, ConnectError)
    assert "no TLS with broker.example:1" in str(client.error)
    assert "is this a TLS port?" in str(client.error)


def test_the_other_side_is_told_why_the_handshake_failed(ca: trustme.CA) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("other.example").configure_cert(server_context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(client_context)
    client, server = wires((client_context, server_context))
    exchange(client, server)
    assert isinstance(client.error, ConnectError)
    assert "the certificate of broker.example:1 is not trusted: Hostname mismatch" in str(
        client.error
    )
    assert isinstance(server.error, ConnectError)
    assert "ALERT" in str(server.error)


def test_a_connection_that_is_tampered_with_is_a_protocol_error(contexts: Contexts) -> None:
    client, server = connected(contexts)
    client.send(b"one")
    whole = client.data_to_send()
    client.send(b"two")
    broken = bytearray(client.data_to_send())
    broken[-1] ^= 1
    assert server.receive_data(whole + bytes(broken)) == [b"one"]
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)
    assert "the encrypted connection failed" in str(server.error)
    error = server.error
    client.receive_data(server.data_to_send())
    assert isinstance(client.error, RemoteProtocolError)  # the alert
    server.receive_eof()
    server.close()
    assert server.receive_data(whole) == []
    assert server.error is error


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(max_size=60), max_size=8),
    st.sampled_from(
        [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x17\x03\x03\x00\x20"]
    ),
    st.booleans(),
    st.integers(0, 1),
)
def test_nothing_that_the_other_side_sends_raises(
    contexts: Contexts, chunks: list[bytes], start: bytes, open_: bool, side: int
) -> None:
    wire = connected(contexts)[side] if open_ else wires(contexts)[side]
    error: MBError | None = None
    for chunk in [start, *chunks]:
        assert wire.receive_data(chunk) == []
        assert error is None or wire.error is error
        error = wire.error
        assert (wire.state is WireState.CLOSED) is (error is not None)
        wire.data_to_send()
    wire.receive_eof()
    assert wire.state is WireState.CLOSED
    wire.close()
    wire.data_to_send()


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        (".example", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        (None, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        ("broker\0example", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        ("broker.example", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)),
    ],
    ids=["empty name", "leading dot", "no name", "a null byte", "a server's context"],
)
def test_settings_that_allow_no_tls_are_a_final_connect_error(
    name: str | None, context: ssl.SSLContext
) -> None:
    with pytest.raises(ConnectError, match="no TLS with these settings") as raised:
        TlsWire(LengthPrefixWire(LIMITS), context, server_hostname=name)
    assert raised.value.final


def test_the_default_settings_verify_and_take_no_old_tls() -> None:
    context = client_ssl_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.hostname_checks_common_name
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_default_settings_do_not_trust_a_stranger(contexts: Contexts) -> None:
    client, server = wires((client_ssl_context(), contexts[1]))
    exchange(client, server)
    assert "is not trusted" in str(client.error)


def common_name_only(ca: trustme.CA) -> ssl.SSLContext:
    """A server's context whose certificate names broker.example as its common name alone."""
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    signer = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(signer.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker.example")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False
        )
        .sign(signer, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = secret + certificate.public_bytes(serialization.Encoding.PEM)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with trustme.Blob(pem).tempfile() as file:
        server.load_cert_chain(file)
    return server


def test_the_default_settings_do_not_take_a_common_name_for_the_host(
    ca: trustme.CA, tmp_path: Path
) -> None:
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trusting = client_ssl_context(str(tmp_path / "ca.pem"))
    client, server = wires((trusting, common_name_only(ca)))
    exchange(client, server)
    assert isinstance(client.error, ConnectError)
    assert client.error.final
    text = str(client.error)
    assert text.startswith("the certificate of broker.example:1 is not trusted: Hostname mismatch")
    assert "must be one of the certificate's alternative names (subjectAltName)" in text


@pytest.mark.parametrize("counts", [True, False])
def test_in_a_users_own_settings_the_user_says_whether_a_common_name_counts(
    counts: bool, ca: trustme.CA
) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(own)
    own.hostname_checks_common_name = counts
    client, server = wires((own, common_name_only(ca)))
    exchange(client, server)
    assert own.hostname_checks_common_name is counts
    assert (client.state is WireState.OPEN) is counts
