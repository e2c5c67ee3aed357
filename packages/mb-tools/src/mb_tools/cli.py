"""The command `mb`.

What a command does is in a module of its own, imported when the command is called: `mb --help` is
fast.  How commands end is in exits.py.
"""

from __future__ import annotations

from importlib.util import find_spec

import click

from . import cli_look, cli_serve, cli_talk
from .endpoint import Endpoint, endpoint_options
from .exits import Program
from .options import COUNT

__all__ = ["main"]


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="mb-tools", prog_name="mb")
@click.pass_context
def main(ctx: click.Context) -> None:
    """MB: run a message broker, and send and receive messages through it.

    \b
    Exit status: 0 success, 1 error answer, timeout or failed output, 2 wrong usage,
    3 no connection, 130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@main.command()
@click.option(
    "--requests", type=COUNT, default=2_000, show_default=True, help="How many requests to ask."
)
@click.option(
    "--events", type=COUNT, default=10_000, show_default=True, help="How many events to publish."
)
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop to run on.",
)
def demo(requests: int, events: int, backend: str) -> int:
    """Show MB at work: a broker, a service over TCP, a client over WebSocket.

    Exit status 0 means that every request was answered and every event arrived.
    """
    import anyio

    from .demo import run

    if find_spec(backend) is None:
        raise click.UsageError(f"{backend} is not installed: pip install 'mb-core[{backend}]'")
    return anyio.run(run, requests, events, backend=backend)


@main.command()
@endpoint_options
@click.option(
    "--audit/--no-audit", default=True, show_default=True, help="Watch each message go by."
)
def top(endpoint: Endpoint, audit: bool) -> int:
    """Show a live screen of services, rates, latencies, topics and errors."""
    from .top import run

    return run(endpoint, audit=audit)


for _command in (
    cli_serve.serve,
    *(cli_talk.pub, cli_talk.sub, cli_talk.request, cli_talk.reply, cli_talk.ping),
    *(cli_look.services, cli_look.topics, cli_look.metrics, cli_look.log, cli_look.trace),
    *(cli_look.plugins, cli_look.completion),
):
    main.add_command(_command)
