"""Show a live screen of services, rates, latencies, topics and errors."""

from __future__ import annotations

import sys

import click

from ..connect import Endpoint, endpoint_options
from ..runner import asynchronous


@click.command(help=__doc__)
@endpoint_options
@click.option("--audit/--no-audit", default=True, show_default=True, help="Follow the audit feed.")
@asynchronous()
async def command(endpoint: Endpoint, audit: bool) -> None:
    try:
        import textual  # noqa: F401
    except ModuleNotFoundError:
        raise click.UsageError(
            "mb top needs the package textual: pip install 'mb-tools[top]'"
        ) from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "mb top needs a terminal (in scripts, use mb metrics and mb services)"
        )
    from ..top.app import TopApp
    from ..top.model import Model
    from ..top.poller import Poller

    model = Model()
    poller = Poller(endpoint, model, audit=audit)
    async with poller.client:
        await TopApp(poller, model).run_async()
