"""Errors of TLS connections: what is wrong, what helps, and whether a retry may help."""

from __future__ import annotations

import re
import ssl

from ..errors import ConnectError, MBError, RemoteProtocolError

__all__ = ["accepted_error", "dialled_error", "early_end"]

_TRUST = (
    "trust its CA: pass ssl_context=ssl.create_default_context(cafile=...), or set SSL_CERT_FILE"
)
_NAME = "the host in the URL must be one of the certificate's alternative names (subjectAltName)"
_REISSUE = "the server needs another certificate"
_STRICT = f"{_REISSUE}; ssl.VERIFY_X509_STRICT in ssl_context.verify_flags insists on this"
# Remedies if a server's certificate can't be verified, by OpenSSL's X509_V_ERR numbers.
_REMEDIES = {
    9: "is this machine's clock right?",
    10: f"{_REISSUE}; or is this machine's clock wrong?",
    **dict.fromkeys((2, 18, 19, 20, 21, 27), _TRUST),  # no chain to a trusted CA
    **dict.fromkeys((23, 26, 66, 67, 68, 79), _REISSUE),  # revoked, wrong purpose, weak, not a CA
    **dict.fromkeys((62, 64), _NAME),
    **dict.fromkeys(range(80, 94), _STRICT),
}

# What a server's alerts say about our certificate, by their names in RFC 8446, 6.
_REFUSALS = {
    "ACCESS_DENIED": "denies access with this client certificate",
    "BAD_CERTIFICATE": "refuses the client certificate, or did not get one",
    "CERTIFICATE_EXPIRED": "says that the client certificate has expired",
    "CERTIFICATE_REQUIRED": "asks for a client certificate",
    "CERTIFICATE_REVOKED": "says that the client certificate is revoked",
    "CERTIFICATE_UNKNOWN": "refuses the client certificate",
    "UNKNOWN_CA": "does not trust the CA of the client certificate",
    "UNSUPPORTED_CERTIFICATE": "can't use the client certificate",
}
# OpenSSL puts the protocol that brought an alert before its name, as in
# TLSV13_ALERT_CERTIFICATE_REQUIRED and TLSV1_UNRECOGNIZED_NAME.
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(\w+)")
# Hints after a handshake that failed for other reasons.
_HINTS = {
    "HANDSHAKE_FAILURE": " (no cipher in common?)",
    "PROTOCOL_VERSION": " (no TLS version in common)",
    "UNSUPPORTED_PROTOCOL": " (no TLS version in common)",  # our own error, without an alert
}
_TLS_PORT = " (is this a TLS port?)"


def accepted_error(error: ssl.SSLError, *, established: bool) -> MBError:
    """Return why a connection from a client failed; `established` if its handshake was complete."""
    if established:
        return _broken(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"no TLS: the client's certificate is not trusted: {error.verify_message}"
        return ConnectError(text)
    return ConnectError(f"no TLS: {_reason(error)}")


def dialled_error(error: ssl.SSLError, where: str, *, agreed: bool, established: bool) -> MBError:
    """Return why a connection to the server at `where` failed; final for certificates.

    `agreed` says that ciphers were agreed on, `established` that the handshake was complete on our
    side: a TLS 1.3 server rejects our certificate only after that.
    """
    reason = _reason(error)
    alert = _ALERT.fullmatch(reason)
    name = alert[1] if alert is not None else reason
    refusal = _refusal(name, agreed=agreed) if alert is not None else None
    if refusal is not None:
        text = f"no TLS with {where}: the server {refusal} ({reason})"
        return ConnectError(text, final=True)
    if established:
        return _broken(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = _REMEDIES.get(error.verify_code)
        hint = f" ({remedy})" if remedy is not None else ""
        text = f"the certificate of {where} is not trusted: {error.verify_message}{hint}"
        return ConnectError(text, final=True)
    hint = _HINTS.get(name, _TLS_PORT if alert is None else "")
    return ConnectError(f"no TLS with {where}: {reason}{hint}")


def early_end(where: str | None, *, agreed: bool) -> ConnectError:
    """Return the error for a stream that ended during the handshake.

    `where` is the server that was dialled, None for an accepted connection.  `agreed` says that
    ciphers were agreed on before.
    """
    if where is None:
        return ConnectError("the connection ended during the TLS handshake")
    hint = " (does the server ask for a client certificate?)" if agreed else _TLS_PORT
    return ConnectError(f"the connection to {where} ended during the TLS handshake{hint}")


def _refusal(alert: str, *, agreed: bool) -> str | None:
    """Return what an alert says about the certificates; None if it is about something else."""
    if alert == "UNRECOGNIZED_NAME":
        return "has no certificate for the host in the URL"
    if alert == "HANDSHAKE_FAILURE" and agreed:
        # TLS 1.2's alert for a missing certificate.
        alert = "CERTIFICATE_REQUIRED"
    refusal = _REFUSALS.get(alert)
    if refusal is None:
        return None
    which = "one" if alert == "CERTIFICATE_REQUIRED" else "another"
    return f"{refusal}: load {which} with ssl_context.load_cert_chain(...)"


def _broken(error: ssl.SSLError) -> RemoteProtocolError:
    return RemoteProtocolError(f"the encrypted connection failed: {_reason(error)}")


def _reason(error: ssl.SSLError) -> str:
    return error.reason or str(error)
