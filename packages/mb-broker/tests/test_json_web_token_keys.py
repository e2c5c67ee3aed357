"""[authenticators.jwt]: the keys of an identity provider, and each mistake in the table."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from trustme import CA

from mb_broker.access import read_access_file
from mb_broker.access.json_web_tokens import JWT
from mb_core.authenticators import Credentials, Identity
from mb_core.errors import LocalProtocolError, UnauthorizedError
from mb_core.plugins import installed_plugins

from .identity_provider import ED448, KEYS, SECRET, pem, public_jwk, sign, table

Json = dict[str, Any]
EC = KEYS["ES256"]
UNKNOWN = "the token is signed with a key that this broker does not know"
WEAK = rsa.generate_private_key(65537, 1024)


def mistake(settings: Json, folder: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        JWT.create(settings, folder)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    return text.replace(str(folder), "FOLDER")


def jwks(folder: Path, *keys: Any, **more: Any) -> Json:
    """Settings with a JWKS of these keys."""
    (folder / "jwks.json").write_text(json.dumps({"keys": keys}))
    (folder / "jwks.json").chmod(0o644)
    return table(folder, key_file=None, jwks_file="jwks.json", **more)


# JWKS files


def test_a_key_is_found_by_its_kid(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    settings = jwks(tmp_path, public_jwk(EC, "ES256", kid="a"), public_jwk(other, "ES256", kid="b"))
    authenticate = JWT.create(settings, tmp_path)
    for key, kid in ((EC, "a"), (other, "b")):
        assert authenticate(Credentials(sign(key=key, headers={"kid": kid}))) is not None
    for key, kid, text in (
        (EC, "b", "the token's signature is invalid"),
        (EC, "c", UNKNOWN),
        (EC, "", UNKNOWN),
        (EC, "../../etc/passwd", UNKNOWN),
        (EC, None, UNKNOWN),
    ):
        with pytest.raises(UnauthorizedError) as caught:
            authenticate(Credentials(sign(key=key, headers={"kid": kid} if kid else None)))
        assert caught.value.message == text


def test_a_key_serves_the_algorithms_that_it_says_or_all_that_fit(tmp_path: Path) -> None:
    key = KEYS["RS256"]
    no_alg = {k: v for k, v in public_jwk(key, "RS256", kid="any").items() if k != "alg"}
    settings = jwks(
        tmp_path,
        public_jwk(key, "RS256", kid="one"),
        no_alg,
        public_jwk(EC, "ES256", kid="one"),
        algorithms=["RS256", "PS256", "ES256"],
    )
    authenticate = JWT.create(settings, tmp_path)

    def known(algorithm: str, kid: str) -> Identity | None:
        return authenticate(Credentials(sign(algorithm, headers={"kid": kid})))

    for algorithm, kid in (("RS256", "one"), ("ES256", "one"), ("RS256", "any"), ("PS256", "any")):
        assert known(algorithm, kid) is not None
    for algorithm, kid in (("PS256", "one"), ("ES256", "any")):
        with pytest.raises(UnauthorizedError, match="does not know"):
            known(algorithm, kid)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda key: key | {"use": "enc"}, id="for encryption"),
        pytest.param(lambda key: key | {"key_ops": ["sign"]}, id="for signing"),
        pytest.param(lambda key: key | {"alg": "ES384"}, id="another algorithm"),
        pytest.param(lambda key: key | {"alg": "RSA-OAEP"}, id="an algorithm for encryption"),
        pytest.param(lambda key: key | {"kty": "AKP"}, id="a type of the future"),
        pytest.param(lambda key: key | {"kty": ["EC"]}, id="no type"),
        pytest.param(lambda key: key | {"kid": None}, id="no kid"),
        pytest.param(lambda key: key | {"kid": 7}, id="a number as kid"),
        pytest.param(lambda key: key | {"crv": "P-384"}, id="another curve"),
        pytest.param(lambda key: key | {"x": "AAAA"}, id="not on the curve"),
        pytest.param(lambda key: key | {"x": 7}, id="a number as coordinate"),
        pytest.param(lambda key: {"kty": "EC", "kid": "a"}, id="nothing in it"),
        pytest.param(lambda key: public_jwk(KEYS["ES384"], "ES384", kid="a"), id="ES384"),
        pytest.param(lambda key: public_jwk(ED448, "EdDSA", kid="a"), id="EdDSA"),
        pytest.param(lambda key: {}, id="empty"),
    ],
)
def test_keys_that_do_not_fit_are_ignored(
    change: Callable[[Json], Json], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = change(public_jwk(EC, "ES256", kid="a"))
    settings = jwks(tmp_path, wrong, public_jwk(EC, "ES256", kid="b"))
    authenticate = JWT.create(settings, tmp_path)
    assert authenticate(Credentials(sign(headers={"kid": "b"}))) is not None
    with pytest.raises(UnauthorizedError, match="does not know"):
        authenticate(Credentials(sign(headers={"kid": "a"})))
    assert mistake(jwks(tmp_path, wrong), tmp_path) == (
        "jwks_file 'FOLDER/jwks.json': no key in it has a kid and can be used for ES256: "
        "check algorithms, and that it is the JWKS of the issuer"
    )
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)


def test_a_weak_key_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weak = public_jwk(WEAK, "RS256", kid="weak")
    fine = public_jwk(KEYS["RS256"], "RS256", kid="fine")
    authenticate = JWT.create(jwks(tmp_path, weak, fine, algorithms=["RS256"]), tmp_path)
    with pytest.raises(UnauthorizedError, match="does not know"):
        authenticate(Credentials(sign("RS256", headers={"kid": "weak"})))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"{tmp_path}/jwks.json: ignored key 1, which can't be used: it has 1024 bits, the minimum "
        "is 2048"
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is not a JWKS (Input data was truncated)"),
        ("[]", "is not a JWKS (Expected `object`, got `array`)"),
        ("{}", "is not a JWKS (Object missing required field `keys`)"),
        ('{"keys":7}', "is not a JWKS (Expected `array`, got `int` - at `$.keys`)"),
        ('{"keys":[7]}', "is not a JWKS (Expected `object`, got `int` - at `$.keys[0]`)"),
    ],
)
def test_what_is_not_a_jwks_is_named(content: str, text: str, tmp_path: Path) -> None:
    settings = jwks(tmp_path)
    (tmp_path / "jwks.json").write_text(content)
    assert mistake(settings, tmp_path) == (
        f"jwks_file 'FOLDER/jwks.json': {text}: expected a JSON object with the array 'keys'"
    )


def test_two_keys_with_one_kid_are_a_mistake(tmp_path: Path) -> None:
    key = public_jwk(EC, "ES256", kid="a")
    assert mistake(jwks(tmp_path, key, key), tmp_path) == (
        "jwks_file 'FOLDER/jwks.json': has two keys with the kid 'a': remove one of them"
    )


@pytest.mark.parametrize(
    "secret", [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC", "d": "c2VjcmV0", "kid": "x"}]
)
def test_a_jwks_with_a_secret_is_a_mistake(secret: Json, tmp_path: Path) -> None:
    settings = jwks(tmp_path, public_jwk(EC, "ES256", kid="a"), secret)
    assert mistake(settings, tmp_path) == (
        "jwks_file 'FOLDER/jwks.json': key 2 is secret, and this file should have public keys "
        "only: save the JWKS that the provider publishes"
    )


# Key files


def private_pem() -> bytes:
    return EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_pem() -> bytes:
    return CA().cert_pem.bytes()


@pytest.mark.parametrize(
    ("algorithm", "content", "text"),
    [
        ("ES256", b"", "has no public key in PEM format (-----BEGIN PUBLIC KEY-----)"),
        (
            "ES256",
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "has no public key in PEM format (-----BEGIN PUBLIC KEY-----)",
        ),
        (
            "ES256",
            private_pem(),
            "is a private key, which only the provider should have: expected its public key",
        ),
        (
            "ES256",
            certificate_pem(),
            (
                "is a certificate: extract its public key with `openssl x509 -pubkey -noout -in "
                "FOLDER/key > key.pem`"
            ),
        ),
        (
            "ES256",
            pem(KEYS["RS256"]),
            (
                "its key has the type RSA, which can't be used for 'ES256': correct algorithms, "
                "or use another key"
            ),
        ),
        (
            "ES256",
            pem(KEYS["ES384"]),
            (
                "its key has the type EC (secp384r1), which can't be used for 'ES256': correct "
                "algorithms, or use another key"
            ),
        ),
        (
            "RS256",
            pem(KEYS["EdDSA"]),
            (
                "its key has the type Ed25519, which can't be used for 'RS256': correct "
                "algorithms, or use another key"
            ),
        ),
        ("PS256", pem(WEAK), "its key has 1024 bits: must be 2048 or more"),
        ("HS256", b" short \n", "its secret has 5 bytes: must be 32 or more for 'HS256'"),
        ("HS512", b"x" * 63, "its secret has 63 bytes: must be 64 or more for 'HS512'"),
        (
            "HS256",
            pem(EC),
            (
                "is a key in PEM format, but 'HS256' needs a secret: use the algorithm that the "
                "provider signs with, such as 'RS256'"
            ),
        ),
    ],
)
def test_what_is_not_the_key_is_named(
    algorithm: str, content: bytes, text: str, tmp_path: Path
) -> None:
    settings = table(tmp_path, algorithm, key_file="key")
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    assert mistake(settings, tmp_path) == f"key_file 'FOLDER/key': {text}"


def test_white_space_around_a_secret_is_ignored(tmp_path: Path) -> None:
    settings = table(tmp_path, "HS256")
    (tmp_path / "HS256.key").write_text(f"\n{SECRET}\n")
    authenticate = JWT.create(settings, tmp_path)
    assert authenticate(Credentials(sign("HS256"))) is not None
    assert SECRET not in repr(authenticate)


@pytest.mark.parametrize(
    ("algorithm", "mode", "text"),
    [
        ("ES256", 0o664, "other users of this machine can write it: chmod go-w"),
        ("ES256", 0o646, "other users of this machine can write it: chmod go-w"),
        ("HS256", 0o620, "other users of this machine can write it: chmod go-w"),
        ("HS256", 0o604, "other users of this machine can read it: chmod o-r"),
    ],
)
def test_others_must_not_change_a_key_or_read_a_secret(
    algorithm: str, mode: int, text: str, tmp_path: Path
) -> None:
    settings = table(tmp_path, algorithm)
    name = f"{algorithm}.key"
    (tmp_path / name).chmod(mode)
    assert mistake(settings, tmp_path) == f"key_file 'FOLDER/{name}': {text} FOLDER/{name}"
    (tmp_path / name).chmod(0o640)
    JWT.create(settings, tmp_path)


def test_others_must_not_change_a_jwks(tmp_path: Path) -> None:
    settings = jwks(tmp_path, public_jwk(EC, "ES256", kid="a"))
    (tmp_path / "jwks.json").chmod(0o666)
    assert "other users of this machine can write it" in mistake(settings, tmp_path)


# The other settings


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"issuer": None}, "the key 'issuer' is missing"),
        ({"audience": None}, "the key 'audience' is missing"),
        ({"algorithms": None}, "the key 'algorithms' is missing"),
        ({"issuer": ""}, "issuer must not be empty"),
        ({"audience": ""}, "audience must not be empty"),
        ({"user_claim": ""}, "user_claim must not be empty"),
        ({"roles_claim": ""}, "roles_claim must not be empty"),
        ({"typ": ""}, "typ must not be empty"),
        ({"issuer": 7}, "issuer: expected `str`, got `int`"),
        ({"audience": ["a"]}, "audience: expected `str`, got `array`"),
        ({"algorithms": "ES256"}, "algorithms: expected `array`, got `str`"),
        ({"algorithms": [7]}, "algorithms[0]: expected `str`, got `int`"),
        (
            {"algorithms": []},
            "algorithms is empty: list those that the provider signs with, such as 'RS256'",
        ),
        ({"algorithms": ["ES265"]}, "unknown algorithm 'ES265'; did you mean 'ES256'?"),
        (
            {"algorithms": ["ES256", "none"]},
            (
                "'none' in algorithms would accept tokens that nobody has signed: list those "
                "that the provider signs with, such as 'RS256'"
            ),
        ),
        (
            {"algorithms": ["ES256", "HS256"]},
            (
                "algorithms has both 'HS256', which needs a secret, and 'ES256', which needs a "
                "public key: remove one of them"
            ),
        ),
        (
            {"key_file": None},
            (
                "neither of key_file and jwks_file is set: set one, to the file with the keys of "
                "the provider"
            ),
        ),
        (
            {"jwks_file": "jwks.json"},
            (
                "both of key_file and jwks_file are set: set one, to the file with the keys of "
                "the provider"
            ),
        ),
        (
            {"key_file": None, "jwks_file": "jwks.json", "algorithms": ["HS256"]},
            (
                "jwks_file has public keys, but 'HS256' needs a secret: use key_file, or the "
                "algorithm that the provider signs with, such as 'RS256'"
            ),
        ),
        (
            {"key_file": "missing.pem"},
            "key_file 'FOLDER/missing.pem': can't be read: No such file or directory",
        ),
        ({"key_file": "."}, "key_file 'FOLDER': can't be read: Is a directory"),
        ({"leeway": -1}, "invalid leeway -1.0: must be 0 to 300 (in seconds)"),
        ({"leeway": 301}, "invalid leeway 301.0: must be 0 to 300 (in seconds)"),
        ({"leeway": float("nan")}, "invalid leeway nan: must be 0 to 300 (in seconds)"),
        ({"leeway": float("inf")}, "invalid leeway inf: must be 0 to 300 (in seconds)"),
        ({"leeway": True}, "leeway: expected `float`, got `bool`"),
        ({"role_claim": "scope"}, "unknown key 'role_claim'; did you mean 'roles_claim'?"),
    ],
)
def test_each_mistake_is_one_line(change: Json, text: str, tmp_path: Path) -> None:
    assert mistake(table(tmp_path, **change), tmp_path) == text


def test_in_a_file_the_error_names_file_and_table(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text('[authenticators.jwt]\nissuer = "https://login.example"\n')
    path.chmod(0o600)
    with pytest.raises(LocalProtocolError) as caught:
        read_access_file(path, installed_plugins().authenticator)
    assert str(caught.value) == (
        f"access file {path}: [authenticators.jwt]: the key 'audience' is missing"
    )


@pytest.mark.parametrize("missing", ["jwt", "cryptography"])
def test_without_pyjwt_the_error_says_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mb_broker.access.signing_keys", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    import mb_broker.access

    monkeypatch.delattr(mb_broker.access, "signing_keys", raising=False)
    assert mistake(table_of(tmp_path), tmp_path) == (
        "needs PyJWT and cryptography: pip install 'mb-broker[jwt]'"
    )


def table_of(folder: Path) -> Json:
    return {"issuer": "i", "audience": "a", "algorithms": ["RS256"], "key_file": "key.pem"}


def test_it_is_found_by_its_name() -> None:
    assert installed_plugins().authenticator("jwt") is JWT
