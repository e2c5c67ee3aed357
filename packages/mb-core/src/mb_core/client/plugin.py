"""What this distribution registers: the front ends of this client, and JSON."""

from __future__ import annotations

from ..codec import JSON, Codec
from ..frontend import Frontend
from ..hookspecs import hookimpl
from .client import MessageBrokerClient

__all__ = ["mb_register_codecs", "mb_register_frontends"]


@hookimpl
def mb_register_frontends() -> list[Frontend]:
    # One client for both: it finds out which event loop it is on.
    return [Frontend(name, MessageBrokerClient) for name in ("asyncio", "trio")]


@hookimpl
def mb_register_codecs() -> list[Codec]:
    return [JSON]
