"""Failures of TLS in words: both sides of real connections, and alerts that OpenSSL never sends."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme

from mb_core.errors import ConnectError, MBError, RemoteProtocolError
from mb_core.link.tls import TlsWire
from mb_core.link.tls_errors import accepted_error, dialled_error, early_end
from mb_core.wire import Limits, WireState
from mb_tcp import LengthPrefixWire

LIMITS = Limits(max_message=1000)
TOMORROW = datetime.now(UTC) + timedelta(days=1)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)

LOAD_ONE = re.escape("load one with ssl_context.load_cert_chain(...)")
LOAD_ANOTHER = re.escape("load another with ssl_context.load_cert_chain(...)")


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return ssl.TLSVersion[request.param]


@pytest.fixture(scope="module")
def strangers() -> trustme.CA:
    """An authority that nobody trusts."""
    return trustme.CA()


@pytest.fixture
def client_context(ca: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.fixture
def server_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("broker.example").configure_cert(context)
    return context


@pytest.fixture
def asking_context(ca: trustme.CA, server_context: ssl.SSLContext) -> ssl.SSLContext:
    """A server's settings, with which it asks for certificates of clients."""
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_context)
    return server_context


def dialled(context: ssl.SSLContext, name: str = "broker.example") -> TlsWire:
    wire = LengthPrefixWire(LIMITS)
    return TlsWire(wire, context, server_hostname=name, where="broker.example:8444")


def failure(client: TlsWire, server_context: ssl.SSLContext) -> tuple[MBError, MBError]:
    """What a client and a server make of each other."""
    server = TlsWire(LengthPrefixWire(LIMITS), server_context, server_side=True)
    while True:
        out, back = client.data_to_send(), server.data_to_send()
        if not out and not back:
            break
        server.receive_data(out)
        client.receive_data(back)
    assert client.state is server.state is WireState.CLOSED
    assert client.error is not None
    assert server.error is not None
    return client.error, server.error


def alert(error: int) -> bytes:
    """The record of a fatal alert, as a server sends it within the handshake."""
    return b"\x15\x03\x03\x00\x02\x02" + bytes([error])


def told(error: MBError, text: str, *, final: bool) -> None:
    assert isinstance(error, ConnectError)
    assert re.search(text, str(error)), str(error)
    assert error.final is final


# The server's certificate


def test_of_an_unknown_authority_the_remedy_is_to_trust_it(
    client_context: ssl.SSLContext, strangers: trustme.CA
) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    strangers.issue_cert("broker.example").configure_cert(server_context)
    error, refusal = failure(dialled(client_context), server_context)
    told(
        error,
        r"^the certificate of broker\.example:8444 is not trusted: .*certificate.* \(trust its CA: "
        r"pass ssl_context=ssl\.create_default_context\(cafile=\.\.\.\), or set SSL_CERT_FILE\)$",
        final=True,
    )
    told(refusal, r"^no TLS: TLSV1_ALERT_UNKNOWN_CA$", final=False)


def test_of_a_self_signed_certificate_the_remedy_is_to_trust_it(
    client_context: ssl.SSLContext, strangers: trustme.CA
) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    both = strangers.private_key_pem.bytes() + strangers.cert_pem.bytes()
    with trustme.Blob(both).tempfile() as path:
        server_context.load_cert_chain(path)
    error, _ = failure(dialled(client_context), server_context)
    told(error, r"is not trusted: self.signed certificate \(trust its CA: ", final=True)


def test_of_a_certificate_for_another_host_the_remedy_is_another_url(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    remedy = (
        r" \(the host in the URL must be one of the certificate's alternative names "
        r"\(subjectAltName\)\)$"
    )
    for name, kind in [("other.example", "Hostname"), ("192.0.2.1", "IP address")]:
        error, _ = failure(dialled(client_context, name), server_context)
        told(error, rf"is not trusted: {kind} mismatch, .*'{name}'\.{remedy}", final=True)


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (
            {"not_after": YESTERDAY},
            r"certificate has expired \(the server needs another certificate; or is this .*clock",
        ),
        ({"not_before": TOMORROW}, r"certificate is not yet valid \(is this machine's clock right"),
    ],
    ids=["expired", "not yet valid"],
)
def test_of_a_certificate_at_another_time_the_remedy_is_the_time(
    ca: trustme.CA, client_context: ssl.SSLContext, times: dict[str, Any], text: str
) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("broker.example", **times).configure_cert(server_context)
    error, _ = failure(dialled(client_context), server_context)
    told(error, text, final=True)


@pytest.mark.parametrize(
    ("code", "words", "remedy"),
    [
        (23, "certificate revoked", "the server needs another certificate"),
        (26, "unsuitable certificate purpose", "the server needs another certificate"),
        (66, "EE certificate key too weak", "the server needs another certificate"),
        (85, "Missing Authority Key Identifier", "ssl.VERIFY_X509_STRICT in ssl_context.verify"),
        (3, "unable to get certificate CRL", None),
    ],
)
def test_every_certificate_that_is_not_verified_is_final(
    code: int, words: str, remedy: str | None
) -> None:
    failed = ssl.SSLCertVerificationError(1, "certificate verify failed")
    failed.reason, failed.verify_code, failed.verify_message = "X", code, words
    error = dialled_error(failed, "h:1", agreed=True, established=False)
    text = rf"^the certificate of h:1 is not trusted: {words}"
    told(error, text + (rf" \(.*{re.escape(remedy)}" if remedy else "$"), final=True)


# The client's certificate


def test_a_client_without_a_certificate_is_told_to_load_one(
    client_context: ssl.SSLContext, asking_context: ssl.SSLContext
) -> None:
    error, refusal = failure(dialled(client_context), asking_context)
    told(
        error,
        r"^no TLS with broker\.example:8444: the server asks for a client certificate: "
        rf"{LOAD_ONE} \(\w+\)$",
        final=True,
    )
    told(refusal, "^no TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE$", final=False)


def test_tls_1_3_tells_it_when_the_handshake_is_complete_here(
    ca: trustme.CA, asking_context: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    client = dialled(context)
    server = TlsWire(LengthPrefixWire(LIMITS), asking_context, server_side=True)
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    assert client.state is WireState.OPEN
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    assert client.error is not None
    told(client.error, r"\(TLSV13_ALERT_CERTIFICATE_REQUIRED\)$", final=True)


def test_a_client_with_a_certificate_of_an_unknown_authority_is_told_to_load_another(
    client_context: ssl.SSLContext, asking_context: ssl.SSLContext, strangers: trustme.CA
) -> None:
    strangers.issue_cert("a.client").configure_cert(client_context)
    error, refusal = failure(dialled(client_context), asking_context)
    told(
        error,
        rf": the server does not trust the CA of the client certificate: {LOAD_ANOTHER}",
        final=True,
    )
    told(refusal, "^no TLS: the client's certificate is not trusted: unable to get", final=False)


@pytest.mark.parametrize(
    ("times", "text", "refused"),
    [
        (
            {"not_after": YESTERDAY},
            f"says that the client certificate has expired: {LOAD_ANOTHER}",
            "certificate has expired",
        ),
        (
            {"not_before": TOMORROW},
            f"refuses the client certificate, or did not get one: {LOAD_ANOTHER}",
            "certificate is not yet valid",
        ),
    ],
    ids=["expired", "not yet valid"],
)
def test_a_client_with_a_certificate_at_another_time_is_told_to_load_another(
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    asking_context: ssl.SSLContext,
    times: dict[str, Any],
    text: str,
    refused: str,
) -> None:
    ca.issue_cert("a.client", **times).configure_cert(client_context)
    error, refusal = failure(dialled(client_context), asking_context)
    told(error, text, final=True)
    told(refusal, f"^no TLS: the client's certificate is not trusted: {refused}$", final=False)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (42, f"refuses the client certificate, or did not get one: {LOAD_ANOTHER}"),
        (43, f"can't use the client certificate: {LOAD_ANOTHER}"),
        (44, f"says that the client certificate is revoked: {LOAD_ANOTHER}"),
        (45, f"says that the client certificate has expired: {LOAD_ANOTHER}"),
        (46, f"refuses the client certificate: {LOAD_ANOTHER}"),
        (48, f"does not trust the CA of the client certificate: {LOAD_ANOTHER}"),
        (49, f"denies access with this client certificate: {LOAD_ANOTHER}"),
        (112, r"has no certificate for the host in the URL \("),
        (116, f"asks for a client certificate: {LOAD_ONE}"),
    ],
)
def test_an_alert_about_a_certificate_is_final(
    client_context: ssl.SSLContext, number: int, text: str
) -> None:
    client = dialled(client_context)
    assert client.receive_data(alert(number)) == []
    assert client.error is not None
    told(client.error, f"^no TLS with broker.example:8444: the server {text}", final=True)


@pytest.mark.parametrize("reason", ["TLSV1_ALERT_ACCESS_DENIED", "SSLV3_ALERT_HANDSHAKE_FAILURE"])
def test_an_alert_about_a_certificate_is_final_at_any_time(reason: str) -> None:
    failed = ssl.SSLError(1, "text")
    failed.reason = reason
    error = dialled_error(failed, "h:1", agreed=True, established=True)
    told(error, r"ssl_context\.load_cert_chain", final=True)
    assert isinstance(accepted_error(failed, established=True), RemoteProtocolError)


# What may pass


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (40, r"HANDSHAKE_FAILURE \(no cipher in common\?\)"),
        (70, r"PROTOCOL_VERSION \(no TLS version in common\)"),
        (80, "INTERNAL_ERROR"),
    ],
)
def test_other_alerts_are_not_final_and_speak_of_no_port(
    client_context: ssl.SSLContext, number: int, words: str
) -> None:
    client = dialled(client_context)
    client.receive_data(alert(number))
    assert client.error is not None
    told(client.error, rf"^no TLS with broker\.example:8444: \w+_ALERT_{words}$", final=False)


def test_a_port_without_tls_is_not_final(client_context: ssl.SSLContext) -> None:
    client = dialled(client_context)
    client.receive_data(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert client.error is not None
    told(client.error, r"\(is this a TLS port\?\)$", final=False)


def test_a_server_without_a_tls_version_in_common_is_not_final(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    other = {ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3} - {version}
    server_context.minimum_version = server_context.maximum_version = other.pop()
    error, _ = failure(dialled(client_context), server_context)
    told(error, r"PROTOCOL_VERSION \(no TLS version in common\)$", final=False)


def test_an_end_behind_the_servers_certificate_asks_for_ours(
    ca: trustme.CA, asking_context: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = dialled(context)
    server = TlsWire(LengthPrefixWire(LIMITS), asking_context, server_side=True)
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    client.receive_eof()
    assert client.error is not None
    told(client.error, r"\(does the server ask for a client certificate\?\)$", final=False)


def test_an_end_before_ciphers_were_agreed_on_asks_for_the_port_of_a_client_only() -> None:
    text = r"^the connection to localhost:8080 ended .*\(is this a TLS port\?\)$"
    told(early_end("localhost:8080", agreed=False), text, final=False)
    told(early_end(None, agreed=True), "during the TLS handshake$", final=False)


@pytest.mark.parametrize("agreed", [False, True])
def test_a_connection_that_breaks_later_is_a_protocol_error_with_its_reason(agreed: bool) -> None:
    failed = ssl.SSLError(1, "text")
    failed.reason = "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    for error in (
        dialled_error(failed, "h:1", agreed=agreed, established=True),
        accepted_error(failed, established=True),
    ):
        assert isinstance(error, RemoteProtocolError)
        assert str(error).endswith("failed: DECRYPTION_FAILED_OR_BAD_RECORD_MAC")


def test_a_reason_that_python_has_no_name_for_is_told_in_openssls_words() -> None:
    failed = ssl.SSLError(1, "[SSL] unknown error")
    failed.reason = None  # type: ignore[assignment]
    told(accepted_error(failed, established=False), "unknown error", final=False)
    error = dialled_error(failed, "h:1", agreed=False, established=False)
    told(error, "unknown error", final=False)
