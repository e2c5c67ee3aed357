"""An identity provider for tests: it signs tokens, and publishes its keys."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = [
    "AUDIENCE",
    "ED448",
    "ISSUER",
    "KEYS",
    "SECRET",
    "Provider",
    "pem",
    "public_jwk",
    "sign",
    "sign_raw",
    "table",
]

ISSUER = "https://login.example/realms/shop"
AUDIENCE = "mb-broker"
SECRET = "the-secret-that-only-the-provider-and-the-broker-know-0123456789"

_RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), _RSA),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    **dict.fromkeys(("HS256", "HS384", "HS512"), SECRET),
}
"""A private key for each algorithm."""

ED448 = ed448.Ed448PrivateKey.generate()


def pem(key: Any) -> bytes:
    """Return the public key of a private key in PEM."""
    data: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return data


def public_jwk(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    """Return the public key of a private key as a provider publishes it."""
    signer = jwt.PyJWS().get_algorithm_by_name(algorithm)
    jwk: dict[str, Any] = json.loads(signer.to_jwk(key.public_key()))
    jwk.pop("key_ops", None)
    return {**jwk, "use": "sig", "alg": algorithm, **more}


def table(folder: Path, algorithm: str = "ES256", **more: Any) -> dict[str, Any]:
    """Return settings that trust the key for this algorithm, and write it into the folder."""
    path = folder / f"{algorithm}.key"
    path.write_bytes(SECRET.encode() if algorithm.startswith("HS") else pem(KEYS[algorithm]))
    path.chmod(0o600)
    settings = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": [algorithm],
        "key_file": path.name,
        **more,
    }
    return {key: value for key, value in settings.items() if value is not None}


class Provider:
    """Signs tokens with keys that can be rotated, and writes its JWKS into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: dict[str, Any] = {}
        self.rotate("first")

    def rotate(self, kid: str, *, keep: bool = False) -> None:
        """Sign with a new key from now on, and publish it; the previous ones too with `keep`."""
        previous = self.keys if keep else {}
        self.kid = kid
        self.keys = {**previous, kid: ec.generate_private_key(ec.SECP256R1())}
        keys = [public_jwk(key, "ES256", kid=name) for name, key in self.keys.items()]
        self.path.write_text(json.dumps({"keys": keys}))
        self.path.chmod(0o644)

    def token(self, user: str, *roles: str, seconds: float = 300, **more: Any) -> str:
        """Return a token for a user."""
        claims = {"sub": user, "realm_access": {"roles": list(roles)}, **more}
        return sign("ES256", self.keys[self.kid], {"kid": self.kid}, seconds=seconds, **claims)


def sign(
    algorithm: str = "ES256",
    key: Any = None,
    headers: dict[str, Any] | None = None,
    *,
    seconds: float = 300,
    **claims: Any,
) -> str:
    """Return a token with these claims; claims that are ... are left out."""
    now = time.time()
    everything = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + seconds}
    payload = {k: v for k, v in {**everything, **claims}.items() if v is not ...}
    return sign_raw(json.dumps(payload).encode(), algorithm, key, headers)


def sign_raw(payload: bytes, algorithm: str = "ES256", key: Any = None, headers: Any = None) -> str:
    """Return a token with any payload, whatever PyJWT thinks of it."""
    return jwt.PyJWS().encode(
        payload, key if key is not None else KEYS[algorithm], algorithm, headers
    )
