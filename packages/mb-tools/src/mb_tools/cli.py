"""The command `mb`.  A subcommand's module is imported when it is called: `mb --help` is fast."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec

import click

__all__ = ["main"]

_PORT = click.IntRange(0, 65_535)
_COUNT = click.IntRange(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mb-tools", prog_name="mb")
def main() -> None:
    """MB: ask, answer, publish and listen through a message broker."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--tcp-port", type=_PORT, default=8081, show_default=True, help="Port of tcp://; 0: a free one."
)
@click.option(
    "--ws-port", type=_PORT, default=8080, show_default=True, help="Port of ws://; 0: a free one."
)
def serve(host: str, tcp_port: int, ws_port: int) -> None:
    """Run a broker until Ctrl-C or SIGTERM.

    Prints the URLs on which it listens, one a line.  A signal makes it stop accepting, wait for
    the answers to requests in flight, and end; a second one ends it at once.
    """
    import anyio

    from .serve import run

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    _exit(anyio.run(run, host, tcp_port, ws_port))


@main.command()
@click.option(
    "--requests", type=_COUNT, default=2_000, show_default=True, help="How many requests to ask."
)
@click.option(
    "--events", type=_COUNT, default=10_000, show_default=True, help="How many events to publish."
)
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop to run on.",
)
def demo(requests: int, events: int, backend: str) -> None:
    """Show MB at work: a broker, a service over TCP, a client over WebSocket.

    Exit status 0 means that every request was answered and every event arrived.
    """
    import anyio

    from .demo import run

    if find_spec(backend) is None:
        raise click.UsageError(f"{backend} is not installed: pip install 'mb-core[{backend}]'")
    _exit(anyio.run(run, requests, events, backend=backend))


def _exit(status: int) -> None:
    if status:
        sys.exit(status)
