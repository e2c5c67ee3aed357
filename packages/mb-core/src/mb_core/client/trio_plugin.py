"""What this distribution registers where trio is installed: the client on trio.

It is the same client, which finds out on which event loop it is.
"""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import PluginError
from ..frontend import Frontend
from ..hookspecs import hookimpl
from .client import MessageBrokerClient

__all__ = ["mb_register_frontends"]


@hookimpl
def mb_register_frontends() -> list[Frontend]:
    if find_spec("trio") is None:
        raise PluginError("trio is not installed: pip install 'mb-core[trio]'")
    return [Frontend("trio", MessageBrokerClient)]
