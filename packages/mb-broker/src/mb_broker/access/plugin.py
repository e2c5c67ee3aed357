"""The authenticators that this distribution provides."""

from __future__ import annotations

from mb_core.authenticators import Authenticator
from mb_core.hookspecs import hookimpl

from .certificates import CERTIFICATES
from .json_web_tokens import JWT
from .tokens import TOKENS

__all__ = ["mb_register_authenticators"]


@hookimpl
def mb_register_authenticators() -> list[Authenticator]:
    return [TOKENS, CERTIFICATES, JWT]
