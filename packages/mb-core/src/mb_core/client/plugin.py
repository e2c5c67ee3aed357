"""What this distribution registers: the client on asyncio, and JSON."""

from __future__ import annotations

from ..codec import JSON, Codec
from ..frontend import Frontend
from ..hookspecs import hookimpl
from .client import MessageBrokerClient

__all__ = ["mb_register_codecs", "mb_register_frontends"]


@hookimpl
def mb_register_frontends() -> list[Frontend]:
    return [Frontend("asyncio", MessageBrokerClient)]


@hookimpl
def mb_register_codecs() -> list[Codec]:
    return [JSON]
