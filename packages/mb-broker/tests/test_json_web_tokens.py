"""Tokens of an identity provider: which are accepted, and what is wrong with others."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mb_broker.access.json_web_tokens import JWT
from mb_core.authenticators import NO_CREDENTIALS, Authenticate, Credentials, Identity
from mb_core.errors import UnauthorizedError

from .identity_provider import ED448, KEYS, pem, sign, sign_raw, table

with TemporaryDirectory() as _folder:
    # For hypothesis, which does not make fixtures again for each example.
    FORGED = JWT.create(table(Path(_folder)), Path(_folder))
    SIGNED = JWT.create(table(Path(_folder), "HS256", roles_claim="roles"), Path(_folder))


def known(authenticate: Authenticate, token: str) -> Identity | None:
    return authenticate(Credentials(token))


def refusal(authenticate: Authenticate, token: str) -> str:
    """The error that a client with this token gets, without anything from the token."""
    with pytest.raises(UnauthorizedError) as caught:
        known(authenticate, token)
    assert token not in repr(caught.value)
    assert caught.value.details is None
    return caught.value.message


@pytest.fixture
def authenticate(tmp_path: Path) -> Authenticate:
    """Trusts the ES256 key of the provider."""
    return JWT.create(table(tmp_path, leeway=0), tmp_path)


# Which tokens are accepted


@pytest.mark.parametrize("algorithm", KEYS)
def test_each_algorithm_works_with_its_key(algorithm: str, tmp_path: Path) -> None:
    authenticate = JWT.create(table(tmp_path, algorithm, leeway=5), tmp_path)
    expires_at = int(time.time()) + 60
    identity = known(authenticate, sign(algorithm, exp=expires_at))
    assert identity == Identity("ada", None, expires_at + 5)
    assert known(authenticate, sign(algorithm, exp=expires_at)) == identity


def test_ed448_is_eddsa_too(tmp_path: Path) -> None:
    (tmp_path / "ed448.pem").write_bytes(pem(ED448))
    authenticate = JWT.create(table(tmp_path, "EdDSA", key_file="ed448.pem"), tmp_path)
    assert known(authenticate, sign("EdDSA", ED448)) is not None


@pytest.mark.parametrize("audience", ["mb-broker", ["mb-broker"], ["account", "mb-broker"]])
def test_the_audience_is_a_text_or_one_of_a_list(audience: Any, authenticate: Authenticate) -> None:
    assert known(authenticate, sign(aud=audience)) is not None


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT", ""])
def test_types_of_access_tokens_are_accepted(typ: str, authenticate: Authenticate) -> None:
    assert known(authenticate, sign(headers={"typ": typ} if typ else {"typ": None})) is not None


def test_one_type_may_be_required(tmp_path: Path) -> None:
    authenticate = JWT.create(table(tmp_path, typ="at+jwt"), tmp_path)
    assert known(authenticate, sign(headers={"typ": "at+jwt"})) is not None
    text = "the token is of a type that this broker does not accept"
    assert refusal(authenticate, sign(headers={"typ": "JWT"})) == text
    assert refusal(authenticate, sign(headers={"typ": None})) == text


def test_the_leeway_applies_to_all_times(tmp_path: Path) -> None:
    authenticate = JWT.create(table(tmp_path, leeway=60), tmp_path)
    now = time.time()
    identity = known(authenticate, sign(exp=now - 30, nbf=now + 30, iat=now + 30))
    assert identity is not None
    assert identity.expires_at == pytest.approx(now + 30)
    assert refusal(authenticate, sign(exp=now - 61)) == "the token has expired"
    assert "not valid yet (nbf)" in refusal(authenticate, sign(nbf=now + 90))


# Whom they are about


@pytest.mark.parametrize(
    ("claim", "claims", "roles"),
    [
        ("roles", {"roles": ["reader", "weather"]}, ("reader", "weather")),
        ("realm_access.roles", {"realm_access": {"roles": ["reader"]}}, ("reader",)),
        ("scope", {"scope": "reader  weather"}, ("reader", "weather")),
        ("https://shop.example/roles", {"https://shop.example/roles": ["reader"]}, ("reader",)),
        ("a.b", {"a.b": ["whole"], "a": {"b": ["nested"]}}, ("whole",)),
        ("realm_access.roles", {}, ()),
        ("realm_access.roles", {"realm_access": {}}, ()),
        ("realm_access.roles", {"realm_access": "roles"}, ()),
        ("scope", {"scope": ""}, ()),
        ("roles", {"roles": None}, ()),
        ("roles", {"roles": []}, ()),
    ],
)
def test_roles_are_found_in_their_claim(
    claim: str, claims: dict[str, Any], roles: tuple[str, ...], tmp_path: Path
) -> None:
    authenticate = JWT.create(table(tmp_path, roles_claim=claim), tmp_path)
    identity = known(authenticate, sign(**claims))
    assert identity is not None
    assert identity.roles == roles


@pytest.mark.parametrize("roles", [7, True, {"reader": True}, ["reader", 7], [["reader"]]])
def test_a_claim_that_has_no_roles_is_refused(roles: Any, tmp_path: Path) -> None:
    authenticate = JWT.create(table(tmp_path, roles_claim="roles"), tmp_path)
    assert refusal(authenticate, sign(roles=roles)) == (
        "the token's roles (roles) are not a list of texts"
    )


def test_the_name_may_be_another_claim(tmp_path: Path) -> None:
    authenticate = JWT.create(table(tmp_path, user_claim="preferred_username"), tmp_path)
    identity = known(authenticate, sign(preferred_username="Ada Lovelace"))
    assert identity is not None
    assert identity.name == "Ada Lovelace"
    text = "the token's user (preferred_username) must have 1 to 200 printable characters"
    assert refusal(authenticate, sign()) == text


# What is wrong with others


NOW = time.time()
CLOCKS = "check the clocks of this broker and of the identity provider"
USER = "the token's user (sub) must have 1 to 200 printable characters"


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"iss": "https://login.example/realms/other"}, "the token is from another issuer"),
        ({"iss": ...}, "the token is from another issuer"),
        ({"iss": ["https://login.example/realms/shop"]}, "the token is from another issuer"),
        ({"aud": "account"}, "the token is not for this broker (audience)"),
        ({"aud": ...}, "the token is not for this broker (audience)"),
        ({"aud": ["account"]}, "the token is not for this broker (audience)"),
        ({"aud": {"mb-broker": 1}}, "the token is not for this broker (audience)"),
        ({"aud": [["mb-broker"]]}, "the token is not for this broker (audience)"),
        ({"aud": True}, "the token is not for this broker (audience)"),
        ({"exp": NOW - 1}, "the token has expired"),
        ({"exp": 0}, "the token has expired"),
        ({"exp": ...}, "the token never expires: it needs the claim 'exp'"),
        ({"exp": None}, "the token's exp is not a time in seconds"),
        ({"exp": True}, "the token's exp is not a time in seconds"),
        ({"exp": str(NOW + 60)}, "the token's exp is not a time in seconds"),
        ({"exp": [NOW + 60]}, "the token's exp is not a time in seconds"),
        ({"exp": -1}, "the token's exp is not a time in seconds"),
        ({"exp": (NOW + 60) * 1000}, "the token's exp is not a time in seconds"),
        ({"exp": 10**30}, "the token's exp is not a time in seconds"),
        ({"exp": 1e308}, "the token's exp is not a time in seconds"),
        ({"nbf": True}, "the token's nbf is not a time in seconds"),
        ({"iat": "now"}, "the token's iat is not a time in seconds"),
        (
            {"nbf": NOW + 3600},
            f"the token is not valid yet (nbf): {CLOCKS}",
        ),
        (
            {"iat": NOW + 3600},
            f"the token is not valid yet (iat): {CLOCKS}",
        ),
        ({"sub": ...}, USER),
        ({"sub": ""}, USER),
        ({"sub": 7}, USER),
        ({"sub": ["ada"]}, USER),
        ({"sub": "a" * 201}, USER),
        ({"sub": "ada\n2026 INFO root authenticated"}, USER),
        ({"sub": "ada\x1b[2J"}, USER),
        ({"sub": "ada\u202e"}, USER),
        ({"sub": "\ud800"}, "the token's claims are not a JSON object"),
    ],
)
def test_a_signed_token_with_wrong_claims_is_refused(
    claims: dict[str, Any], text: str, authenticate: Authenticate
) -> None:
    assert refusal(authenticate, sign(**claims)) == text


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"null",
        b"ada",
        b'{"exp":1e999}',
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"exp":-0.0}',
        b'{"exp":' + b"9" * 10_000 + b"}",
        b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"sub":"\xff"}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_claims_that_are_no_claims_are_refused(payload: bytes, authenticate: Authenticate) -> None:
    assert refusal(authenticate, sign_raw(payload)) in {
        "the token's claims are not a JSON object",
        "the token is from another issuer",
    }


@pytest.mark.parametrize("number", ["1e999", "NaN", "9" * 10_000, "1" + "0" * 400, "-Infinity"])
def test_no_number_is_a_time_that_never_comes(number: str, authenticate: Authenticate) -> None:
    payload = '{"iss":"https://login.example/realms/shop","aud":"mb-broker","sub":"ada","exp":%s}'
    text = refusal(authenticate, sign_raw((payload % number).encode()))
    assert text in {
        "the token's exp is not a time in seconds",
        "the token's claims are not a JSON object",
    }


def test_of_two_claims_of_one_name_the_last_counts(authenticate: Authenticate) -> None:
    claims = sign(sub=...)
    payload = json.loads(base64.urlsafe_b64decode(claims.split(".")[1] + "=="))
    text = json.dumps(payload)[:-1] + ', "sub": "ada", "sub": "eve"}'
    identity = known(authenticate, sign_raw(text.encode()))
    assert identity is not None
    assert identity.name == "eve"


# Signatures


SIGNATURE = "the token's signature is invalid"
ALGORITHM = "the token is not signed with an algorithm that this broker accepts"
EXTENSION = "the token uses extensions that this broker does not know"


def test_the_key_must_be_the_providers(authenticate: Authenticate) -> None:
    assert refusal(authenticate, sign(key=ec.generate_private_key(ec.SECP256R1()))) == SIGNATURE


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES384", "EdDSA"])
def test_only_the_listed_algorithms_are_accepted(
    algorithm: str, authenticate: Authenticate
) -> None:
    assert refusal(authenticate, sign(algorithm)) == ALGORITHM


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", "es256", "ES256 ", "ES256\0"])
def test_a_header_can_not_choose_its_algorithm(name: str, authenticate: Authenticate) -> None:
    _, payload, signature = sign().split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": name}).encode()).decode().rstrip("=")
    for end in (signature, ""):
        assert refusal(authenticate, f"{header}.{payload}.{end}") == ALGORITHM


def test_a_public_key_is_not_a_secret(tmp_path: Path) -> None:
    """Anybody may know the public key, and nobody can sign with it."""
    authenticate = JWT.create(table(tmp_path, "RS256"), tmp_path)
    _, payload, _ = sign("RS256").split(".")
    for name in ("HS256", "RS256"):
        forged = jwt.PyJWS().get_algorithm_by_name("HS256")
        raw = base64.urlsafe_b64encode(json.dumps({"alg": name}).encode()).decode().rstrip("=")
        signature = forged.sign(f"{raw}.{payload}".encode(), pem(KEYS["RS256"]))
        token = f"{raw}.{payload}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
        assert refusal(authenticate, token) in {ALGORITHM, SIGNATURE}


def test_keys_in_the_header_are_ignored(authenticate: Authenticate) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    signer = jwt.PyJWS().get_algorithm_by_name("ES256")
    jwk = json.loads(signer.to_jwk(own.public_key()))
    headers = {"jwk": jwk, "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "x5c": [""]}
    assert refusal(authenticate, sign(key=own, headers=headers)) == SIGNATURE
    assert known(authenticate, sign(headers=headers)) is not None


@pytest.mark.parametrize(
    "headers", [{"crit": ["exp"]}, {"crit": []}, {"crit": None}, {"b64": False}, {"b64": True}]
)
def test_extensions_are_refused(headers: dict[str, Any], authenticate: Authenticate) -> None:
    _, payload, signature = sign().split(".")
    text = json.dumps({"alg": "ES256", **headers}).encode()
    header = base64.urlsafe_b64encode(text).decode().rstrip("=")
    assert refusal(authenticate, f"{header}.{payload}.{signature}") == EXTENSION


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", "application/"])
def test_tokens_for_something_else_are_refused(typ: str, authenticate: Authenticate) -> None:
    text = "the token is of a type that this broker does not accept"
    assert refusal(authenticate, sign(headers={"typ": typ})) == text


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("size", [0, 1, 32, 63, 64, 65, 96, 114, 132, 255, 256, 257, 4096])
def test_a_signature_may_have_any_size(algorithm: str, size: int, tmp_path: Path) -> None:
    authenticate = JWT.create(table(tmp_path, algorithm), tmp_path)
    signed = sign(algorithm).rpartition(".")[0]
    for byte in (b"\0", b"\x01", b"\xff"):
        signature = base64.urlsafe_b64encode(byte * size).decode().rstrip("=")
        assert refusal(authenticate, f"{signed}.{signature}") == SIGNATURE


def test_each_character_of_a_token_counts(authenticate: Authenticate) -> None:
    token = sign()
    for position, character in enumerate(token[:-1]):  # the last one has bits without a meaning
        changed = token[:position] + ("A" if character != "A" else "B") + token[position + 1 :]
        try:
            assert known(authenticate, changed) is None
        except UnauthorizedError:
            continue


# What is not a JWT


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "mb_token",
        sign_raw(b""),
        "mb.to.ken",
        "v4.public.eyJhIjoxfQ",
        "a.b.c",
        "e30.e30.e30",
        "eyJhbGciOiJFUzI1NiJ9",
        "eyJhbGciOiJFUzI1NiJ9.e30",
        "eyJhbGciOiJFUzI1NiJ9.e30.a.b",
        "eyJhbGciOiJFUzI1NiJ9.e30.a=",
        "eyJhbGciOiJFUzI1NiJ9.e30.a\n",
        "eyJhbGciOiJFUzI1NiJ9 .e30.a",
        "Bearer eyJhbGciOiJFUzI1NiJ9.e30.a",
        "\ud800.\ud800.\ud800",
        "\u00e9.\u00e9.\u00e9",
        "a" * 1_000_000,
        ".".join(["a" * 10_000] * 3),
        "." * 1_000_000,
        # {"alg":7}, {"alg":"ES256","kid":7}
        "eyJhbGciOjd9.e30.a",
        "eyJhbGciOiJFUzI1NiIsImtpZCI6N30.e30.a",
    ],
)
def test_another_authenticator_may_know_what_is_not_a_jwt(
    token: str, authenticate: Authenticate
) -> None:
    assert known(authenticate, token) is None


def test_a_client_without_a_token_is_not_known(authenticate: Authenticate) -> None:
    assert authenticate(NO_CREDENTIALS) is None
    assert authenticate(Credentials(certificate=("CN=ada",))) is None


def test_an_encrypted_token_is_named_as_such(authenticate: Authenticate) -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"dir","enc":"A256GCM"}').decode().rstrip("=")
    assert refusal(authenticate, f"{header}..a.a.a") == (
        "the token is encrypted, and this broker needs a signed one: request it for this broker "
        "(audience)"
    )
    assert known(authenticate, f"{sign().split('.')[0]}..a.a.a") is None


def test_a_token_that_is_too_long_is_refused_unread(authenticate: Authenticate) -> None:
    token = sign(padding="x" * 30_000)
    assert refusal(authenticate, token) == (
        f"the token has {len(token)} characters, the limit is 32768"
    )


@given(st.one_of(st.text(), st.text("abcAZ09-_.=", max_size=80), st.binary()))
def test_nothing_else_is_raised(text: str | bytes) -> None:
    token = text if isinstance(text, str) else base64.urlsafe_b64encode(text).decode()
    for forged in (token, f"eyJhbGciOiJFUzI1NiJ9.{token}.{token}", f"{token}.e30.{token}"):
        try:
            assert known(FORGED, forged) is None
        except UnauthorizedError:
            continue


@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "roles"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_whatever_is_signed_nothing_else_is_raised(claims: dict[str, Any]) -> None:
    token = sign("HS256", **claims)
    try:
        identity = known(SIGNED, token)
    except UnauthorizedError:
        return
    assert identity is not None
    assert identity.name.isprintable()
    assert identity.expires_at is not None
    assert all(isinstance(role, str) for role in identity.roles or ())
