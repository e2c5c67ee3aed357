"""The plugin that this distribution provides."""

from __future__ import annotations

from mb_core import Frontend, hookimpl

from .client import MessageBrokerClient

__all__ = ["mb_register_frontends"]


@hookimpl
def mb_register_frontends() -> list[Frontend]:
    return [Frontend("sync", MessageBrokerClient, blocking=True)]
