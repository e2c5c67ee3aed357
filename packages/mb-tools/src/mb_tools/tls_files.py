"""Load certificates and keys from files, with errors that name the option and the file."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from mb_core.link.tls import client_ssl_context

from .errors import Failure, Status

__all__ = ["certificate_in", "load_authorities", "load_certificate", "trusting"]


def load_certificate(
    context: ssl.SSLContext, certificate: tuple[str, str], key: tuple[str, str]
) -> None:
    """Load a certificate and its private key, each given as the option's name and the file.

    Raises Failure if they can't be used.
    """
    (cert_option, cert_file), (key_option, key_file) = certificate, key
    _check("certificate", cert_option, cert_file)
    _check("private key", key_option, key_file)

    def password() -> str:  # without this, OpenSSL would ask on the terminal
        raise _unusable(key_option, key_file, "it has a password, which is not supported")

    try:
        context.load_cert_chain(cert_file, key_file, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"it does not belong to the certificate in {cert_option} {cert_file}"
            raise _unusable(key_option, key_file, text) from error
        text = f"OpenSSL can't use it with {key_option} {key_file}: {error}"
        raise _unusable(cert_option, cert_file, text) from error


def load_authorities(context: ssl.SSLContext, option: str, file: str) -> None:
    """Load the CA certificates that verify the peer's; raises Failure."""
    _check("certificate", option, file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise _unusable(option, file, f"OpenSSL can't use it: {error}") from error


def trusting(option: str, file: str) -> ssl.SSLContext:
    """Return a client's context that trusts only the certificates in `file`; raises Failure."""
    _check("certificate", option, file)
    try:
        return client_ssl_context(file)
    except ssl.SSLError as error:
        raise _unusable(option, file, f"OpenSSL can't use it: {error}") from error


def certificate_in(server: ssl.SSLContext, file: str) -> dict[str, Any]:
    """Return the server's certificate, which is in `file`, in the form of `ssl`'s `getpeercert`.

    It may have expired. Raises SSLError if clients will refuse it for another reason.
    """
    # Python reads certificates only of peers, so this connects a client to the server in memory.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    context.load_verify_locations(file)
    upstream, downstream = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(downstream, upstream)
    pending = {client, server.wrap_bio(upstream, downstream, server_side=True)}
    while pending:
        for end in tuple(pending):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue  # the other end's turn
            pending.remove(end)
    return client.getpeercert() or {}


# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)


def _check(what: str, option: str, file: str) -> None:
    """Raise Failure if the file does not contain this; OpenSSL's error would name neither."""
    try:
        text = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise _unusable(option, file, getattr(error, "strerror", None) or str(error)) from error
    if what.upper().encode() + b"-----" not in text:
        remedy = " (give its --key)" if (what, option) == ("private key", "--cert") else ""
        raise _unusable(option, file, f"it contains no {what} in PEM{remedy}")


def _unusable(option: str, file: str, why: str) -> Failure:
    return Failure(f"{option} {file}: {why}", Status.USAGE)
