"""The keys of an identity provider, from a file. This module needs PyJWT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from .settings import hint, read_trusted

__all__ = ["Key", "check_algorithms", "keys_by_id", "only_key", "uses_secret"]

_log = logging.getLogger("mb_broker.access")

# The bytes of a hash, and of the secret at least (RFC 7518, section 3.2).
_SECRETS = {"HS256": 32, "HS384": 48, "HS512": 64}
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS = (*_RSA, *_CURVES, "EdDSA", *_SECRETS)
_MIN_RSA_BITS = 2048
# An algorithm that reads keys of this type.
_READERS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}

_ALL = jwt.PyJWS(algorithms=list(_ALGORITHMS))


class Key:
    """A key, for one algorithm. It has no repr, as it may be a secret."""

    def __init__(self, algorithm: str, key: Any) -> None:
        self._algorithm = _ALL.get_algorithm_by_name(algorithm)
        self._key = self._algorithm.prepare_key(key)

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Return whether this is the signature of these bytes."""
        return self._algorithm.verify(signed, self._key, signature)


class _JWK(msgspec.Struct):
    """What is read of a key in a JWKS, besides the key."""

    kty: str
    kid: str | None = None
    use: str = "sig"
    alg: str | None = None
    key_ops: Sequence[str] = ("verify",)
    d: str | None = None
    """Only private keys have it."""


class _JWKS(msgspec.Struct):
    keys: list[dict[str, Any]]


def check_algorithms(names: Sequence[str]) -> None:
    """Raise ValueError if these algorithms can't be used together."""
    if not names:
        raise ValueError(
            "algorithms is empty: list those that the provider signs with, such as 'RS256'"
        )
    for name in names:
        if name.lower() == "none":
            raise ValueError(
                f"{name!r} in algorithms would accept tokens that nobody has signed: list those "
                "that the provider signs with, such as 'RS256'"
            )
        if name not in _ALGORITHMS:
            raise ValueError(f"unknown algorithm {name!r}{hint(name, _ALGORITHMS)}")
    secrets = [name for name in names if name in _SECRETS]
    others = [name for name in names if name not in _SECRETS]
    if secrets and others:
        raise ValueError(
            f"algorithms has both {secrets[0]!r}, which needs a secret, and {others[0]!r}, which "
            "needs a public key: remove one of them"
        )


def uses_secret(names: Sequence[str]) -> bool:
    """Return whether these algorithms need a secret, and not a public key."""
    return names[0] in _SECRETS


def only_key(path: Path, algorithms: Sequence[str]) -> dict[str, Key]:
    """Return the key in a file by algorithm: a public key in PEM, or a secret."""
    if uses_secret(algorithms):
        secret = _secret(read_trusted(path, secret=True), algorithms)
        return {name: Key(name, secret) for name in algorithms}
    key = _public_key(read_trusted(path), path)
    for name in algorithms:
        if not _fits(key, name):
            raise ValueError(
                f"its key has the type {_kind(key)}, which can't be used for {name!r}: correct "
                "algorithms, or use another key"
            )
    return {name: Key(name, key) for name in algorithms}


def keys_by_id(path: Path, algorithms: Sequence[str]) -> dict[tuple[str, str], Key]:
    """Return the keys in a JWKS by kid and algorithm.

    Keys that are not for signatures, or that can't be read, are ignored, as RFC 7517 says.
    """
    try:
        given = msgspec.json.decode(read_trusted(path), type=_JWKS).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"is not a JWKS ({error}): expected a JSON object with the array 'keys'"
        ) from error
    found: dict[tuple[str, str], Key] = {}
    for number, each in enumerate(given, 1):
        try:
            jwk = msgspec.convert(each, _JWK)
            if jwk.d is not None or jwk.kty == "oct":
                raise _SecretKeyError
            if jwk.kid is None or jwk.use != "sig" or "verify" not in jwk.key_ops:
                continue
            if jwk.kty not in _READERS:
                continue
            key = _from_jwk(each, jwk.kty)
        except _SecretKeyError:
            raise ValueError(
                f"key {number} is secret, and this file should have public keys only: save the "
                "JWKS that the provider publishes"
            ) from None
        except Exception as error:  # of many types
            _log.warning("%s: ignored key %d, which can't be used: %s", path, number, error)
            continue
        for name in algorithms:
            if jwk.alg in (None, name) and _fits(key, name):
                if (jwk.kid, name) in found:
                    raise ValueError(f"has two keys with the kid {jwk.kid!r}: remove one of them")
                found[jwk.kid, name] = Key(name, key)
    if not found:
        raise ValueError(
            f"no key in it has a kid and can be used for {' or '.join(algorithms)}: check "
            "algorithms, and that it is the JWKS of the issuer"
        )
    return found


class _SecretKeyError(Exception):
    pass


def _from_jwk(jwk: dict[str, Any], kty: str) -> Any:
    key = _ALL.get_algorithm_by_name(_READERS[kty]).from_jwk(jwk)
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise ValueError(f"it has {key.key_size} bits, the minimum is {_MIN_RSA_BITS}")
    return key


def _public_key(data: bytes, path: Path) -> Any:
    if b"PRIVATE KEY-----" in data:
        raise ValueError(
            "is a private key, which only the provider should have: expected its public key"
        )
    if b"BEGIN CERTIFICATE-----" in data:
        raise ValueError(
            "is a certificate: extract its public key with `openssl x509 -pubkey -noout -in "
            f"{path} > key.pem`"
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("has no public key in PEM format (-----BEGIN PUBLIC KEY-----)") from None
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise ValueError(f"its key has {key.key_size} bits: must be {_MIN_RSA_BITS} or more")
    return key


def _secret(data: bytes, algorithms: Sequence[str]) -> bytes:
    secret = data.strip()
    if b"-----BEGIN" in secret:
        raise ValueError(
            f"is a key in PEM format, but {algorithms[0]!r} needs a secret: use the algorithm that "
            "the provider signs with, such as 'RS256'"
        )
    shortest = max(_SECRETS[name] for name in algorithms)
    if len(secret) < shortest:
        raise ValueError(
            f"its secret has {len(secret)} bytes: must be {shortest} or more for "
            f"{max(algorithms)!r}"
        )
    return secret


def _fits(key: Any, algorithm: str) -> bool:
    if algorithm in _CURVES:
        return isinstance(key, EllipticCurvePublicKey) and key.curve.name == _CURVES[algorithm]
    if algorithm == "EdDSA":
        return isinstance(key, Ed25519PublicKey | Ed448PublicKey)
    return algorithm in _RSA and isinstance(key, RSAPublicKey)


def _kind(key: Any) -> str:
    if isinstance(key, EllipticCurvePublicKey):
        return f"EC ({key.curve.name})"
    return type(key).__name__.removesuffix("PublicKey")
