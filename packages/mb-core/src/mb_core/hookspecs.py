"""The hooks that a plugin may implement.

A plugin is a module or an object that an installed distribution names under the entry-point
group `mb`.  It implements what it needs, marked with `mb_core.hookimpl`:

    from mb_core import hookimpl

    @hookimpl
    def mb_register_transports():
        return [WireTransport(scheme="tcp", ...)]

Hooks are synchronous and return quickly: plugins are asked once, at the first connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import pluggy

from .transport import Transport

__all__ = ["PROJECT", "MBSpec", "hookimpl"]

PROJECT = "mb"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's function as the implementation of the hook of the same name."""


class MBSpec:
    """All hooks."""

    @hookspec
    def mb_register_transports(self) -> Iterable[Transport]:
        """Give the transports of this plugin, one for each URL scheme.

        A scheme that two plugins give is an error for whoever uses that scheme, and names both.
        """
        return cast("Iterable[Transport]", ())
