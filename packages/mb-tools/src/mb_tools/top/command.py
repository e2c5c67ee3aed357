"""`mb top`: what the command line calls."""

from __future__ import annotations

import asyncio
import sys

import click

from ..endpoint import Endpoint

__all__ = ["run"]


def run(endpoint: Endpoint, *, audit: bool = True) -> int:
    """Show what a broker does until the user quits; gives the exit status.

    `audit` is whether the audit feed is on at first.  Raises click.UsageError where textual is
    not installed, or there is no terminal to draw on; ConnectError or PluginError where no first
    connection comes about.
    """
    try:
        import textual  # noqa: F401
    except ModuleNotFoundError:
        raise click.UsageError(
            "the screen needs the package textual: pip install 'mb-tools[top]'"
        ) from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "mb top needs a terminal (programs can use mb metrics and mb services)"
        )
    asyncio.run(_run(endpoint, audit))
    return 0


async def _run(endpoint: Endpoint, audit: bool) -> None:
    from .app import TopApp
    from .feed import Feed
    from .model import Model

    model = Model()
    feed = Feed(endpoint, model, audit=audit)
    await feed.connect()
    try:
        await TopApp(feed, model).run_async()
    finally:
        await feed.close()
