"""The broker's authenticators pass the suite that third parties run on theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mb_broker.access import token_digest
from mb_broker.access.certificates import CERTIFICATES
from mb_broker.access.json_web_tokens import JWT
from mb_broker.access.tokens import TOKENS
from mb_core.authenticators import Credentials
from mb_testing import AuthenticatorSuite

from .identity_provider import AUDIENCE, ISSUER, SECRET, Provider, sign, table

ADA, EVE = "mb_the_token_of_ada", "mb_the_token_of_eve"
READER = '[roles.reader]\nsubscribe = ["#"]\n'


class OfUsers(AuthenticatorSuite):
    """The parts of [[users]], which are read before these authenticators get them."""

    test_mistakes_in_the_table_are_value_errors = None

    def access_file(self, tmp_path: Path) -> str:
        return f"""
            {READER}
            [[users]]
            name = "ada"
            token_sha256 = "{token_digest(ADA)}"
            roles = ["reader"]
            [[users]]
            name = "billing"
            certificate = "URI:spiffe://example/billing"
            roles = ["reader"]
        """


class TestTokens(OfUsers):
    authenticator = TOKENS

    def table(self, tmp_path: Path, access_file: str) -> dict[str, Any]:
        return {"users": {token_digest(ADA): "ada"}}

    def users(self, tmp_path: Path) -> dict[str, Credentials]:
        return {"ada": Credentials(ADA)}

    def wrong_credentials(self, tmp_path: Path) -> list[Credentials]:
        return [Credentials(EVE), Credentials(token_digest(ADA))]


class TestCertificates(OfUsers):
    authenticator = CERTIFICATES

    def table(self, tmp_path: Path, access_file: str) -> dict[str, Any]:
        return {"users": {"URI:spiffe://example/billing": "billing"}}

    def users(self, tmp_path: Path) -> dict[str, Credentials]:
        return {"billing": Credentials(None, ("URI:spiffe://example/billing", "CN=billing"))}

    def wrong_credentials(self, tmp_path: Path) -> list[Credentials]:
        return [Credentials(None, ("CN=billing",)), Credentials(None, ("DNS:spiffe",))]


class TestJWT(AuthenticatorSuite):
    authenticator = JWT

    def access_file(self, tmp_path: Path) -> str:
        self.provider = Provider(tmp_path / "jwks.json")
        return f"""
            {READER}
            [authenticators.jwt]
            issuer = "{ISSUER}"
            audience = "{AUDIENCE}"
            algorithms = ["ES256", "RS256"]
            jwks_file = "jwks.json"
            roles_claim = "realm_access.roles"
            user_claim = "sub"
            typ = "JWT"
            leeway = 1
            max_connections = 2
        """

    def users(self, tmp_path: Path) -> dict[str, Credentials]:
        return {
            "ada": Credentials(self.provider.token("ada", "reader")),
            "eve": Credentials(self.provider.token("eve"), ("CN=ada",)),
        }

    def wrong_credentials(self, tmp_path: Path) -> list[Credentials]:
        token = self.provider.token
        return [
            Credentials(token("ada", seconds=-10)),
            Credentials(token("ada", aud="other")),
            Credentials(token("ada", iss="other")),
            Credentials(token("ada\n")),
            Credentials(sign(headers={"kid": "first"})),
            Credentials(sign("RS256")),
            Credentials(token("ada").rpartition(".")[0] + "."),
            Credentials("not-a-jwt"),
        ]


class TestJWTWithASecret(AuthenticatorSuite):
    authenticator = JWT

    def access_file(self, tmp_path: Path) -> str:
        settings = table(tmp_path, "HS256")
        return f"""
            [authenticators.jwt]
            issuer = "{ISSUER}"
            audience = "{AUDIENCE}"
            algorithms = ["HS256"]
            key_file = "{settings["key_file"]}"
            [[users]]
            name = "ada"
            roles = []
        """

    def users(self, tmp_path: Path) -> dict[str, Credentials]:
        return {"ada": Credentials(sign("HS256"))}

    def wrong_credentials(self, tmp_path: Path) -> list[Credentials]:
        return [Credentials(sign("HS512")), Credentials(sign("HS256", "x" * 64))]

    def secrets(self, tmp_path: Path) -> list[str]:
        return [SECRET]
