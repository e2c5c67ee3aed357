"""The names in a client's certificate as its credentials, without I/O."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

from mb_core.authenticators import NO_CREDENTIALS, Credentials
from mb_core.link.tls import TlsWire
from mb_core.wire import Limits, credentials_of
from mb_tcp import LengthPrefixWire

LIMITS = Limits()


class WireWithToken(LengthPrefixWire):
    """A Wire whose handshake had a token."""

    credentials = Credentials(token="a-token")


def server_context(ca: trustme.CA, mode: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("broker.example").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = mode
    return context


def client_context(ca: trustme.CA, pem: bytes | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    if pem is not None:
        with trustme.Blob(pem).tempfile() as file:
            context.load_cert_chain(file)
    return context


def client_pem(
    ca: trustme.CA, names: Sequence[x509.GeneralName] | bytes = (), common: Sequence[str] = ()
) -> bytes:
    """Return a client's key and certificate, with exactly these names, unlike trustme's."""
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    signer = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(signer.public_key())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False
        )
    )
    if isinstance(names, bytes):  # an encoding that may be invalid
        extension = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names)
        builder = builder.add_extension(extension, False)
    elif names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), not common)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate = builder.sign(signer, hashes.SHA256())
    return secret + certificate.public_bytes(serialization.Encoding.PEM)


def presented(
    client: ssl.SSLContext, server: ssl.SSLContext, inner: type[LengthPrefixWire] = LengthPrefixWire
) -> tuple[Credentials, Credentials]:
    """Return the credentials on the server's side, and those on the client's."""
    dialled = TlsWire(LengthPrefixWire(LIMITS), client, server_hostname="broker.example")
    accepted = TlsWire(inner(LIMITS), server, server_side=True)
    assert credentials_of(accepted) == NO_CREDENTIALS  # none before the handshake
    while (out := dialled.data_to_send()) or (back := accepted.data_to_send()):
        accepted.receive_data(out)
        back = accepted.data_to_send()
        dialled.receive_data(back)
    assert accepted.error is dialled.error is None
    return credentials_of(accepted), credentials_of(dialled)


def names_of(ca: trustme.CA, pem: bytes | None) -> tuple[str, ...]:
    server = server_context(ca, ssl.CERT_OPTIONAL)
    credentials, _ = presented(client_context(ca, pem), server)
    return credentials.certificate


def dns(name: str) -> x509.DNSName:
    return x509.DNSName(name)


def uri(name: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(name)


def test_alternative_names_come_first_and_dns_names_in_lower_case(ca: trustme.CA) -> None:
    names = [
        uri("spiffe://Example/billing"),
        dns("Billing.Example.COM"),
        x509.RFC822Name("billing@example.com"),  # neither URI nor DNS: no name for a user
    ]
    assert names_of(ca, client_pem(ca, names, ["Billing"])) == (
        "URI:spiffe://Example/billing",
        "DNS:billing.example.com",
        "CN=Billing",
    )


def test_a_wildcard_is_a_name_like_others(ca: trustme.CA) -> None:
    assert names_of(ca, client_pem(ca, [dns("*.example.com")])) == ("DNS:*.example.com",)


def test_a_client_without_a_certificate_has_no_names(ca: trustme.CA) -> None:
    assert names_of(ca, None) == ()


def test_a_certificate_that_the_context_does_not_verify_says_nothing(ca: trustme.CA) -> None:
    server = server_context(ca, ssl.CERT_NONE)
    pem = client_pem(ca, [dns("billing.example")], ["billing"])
    assert presented(client_context(ca, pem), server) == (NO_CREDENTIALS, NO_CREDENTIALS)


def test_the_certificate_of_a_server_says_nothing_about_a_client(ca: trustme.CA) -> None:
    server = server_context(ca, ssl.CERT_REQUIRED)
    pem = client_pem(ca, [dns("billing.example")])
    accepted, dialled = presented(client_context(ca, pem), server)
    assert accepted == Credentials(certificate=("DNS:billing.example",))
    assert dialled == NO_CREDENTIALS


def test_a_certificate_adds_to_what_the_inner_wire_knows(ca: trustme.CA) -> None:
    server = server_context(ca, ssl.CERT_REQUIRED)
    client = client_context(ca, client_pem(ca, [uri("urn:billing")]))
    accepted, _ = presented(client, server, WireWithToken)
    assert accepted == Credentials(token="a-token", certificate=("URI:urn:billing",))


@pytest.mark.parametrize(
    "hidden",
    ["billing\0.evil", "billing\n", "\u202ebilling", "bil\u200bling", "b" * 63 + "\x7f", "\x80"],
)
def test_names_that_can_not_be_printed_are_left_out(hidden: str, ca: trustme.CA) -> None:
    pem = client_pem(ca, [uri("urn:other")], [hidden])
    assert names_of(ca, pem) == ("URI:urn:other",)
    if hidden.isascii():
        assert names_of(ca, client_pem(ca, [dns(hidden), uri(hidden)], ["other"])) == ("CN=other",)


def test_only_the_first_hundred_names_count(ca: trustme.CA) -> None:
    many = [dns(f"host-{number}.example") for number in range(3_000)]
    names = names_of(ca, client_pem(ca, many, ["billing"]))
    assert names == tuple(f"DNS:host-{number}.example" for number in range(100))


def test_a_huge_name_is_left_out(ca: trustme.CA) -> None:
    longest = "urn:" + "x" * 996
    names = names_of(ca, client_pem(ca, [uri(longest + "x"), uri(longest)]))
    assert names == (f"URI:{longest}",)


def test_a_certificate_with_invalid_text_has_no_names(ca: trustme.CA) -> None:
    invalid = b"\x30\x06\x86\x04urn\xff"  # a URI that is not UTF-8
    assert names_of(ca, client_pem(ca, invalid, ["billing"])) == ()
    valid = b"\x30\x06\x86\x04urn:"
    assert names_of(ca, client_pem(ca, valid, ["billing"])) == ("URI:urn:", "CN=billing")
