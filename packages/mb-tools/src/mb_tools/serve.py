"""`mb serve`: a broker on TCP and WebSocket."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import anyio
import click

from mb_client import Broker, MBError

__all__ = ["run"]


async def run(host: str, tcp_port: int, ws_port: int) -> int:
    """Serve until SIGINT or SIGTERM; gives the exit status."""
    host = f"[{host}]" if ":" in host else host
    broker = Broker(f"tcp://{host}:{tcp_port}", f"ws://{host}:{ws_port}")
    status = 0
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            try:
                async with broker:
                    for url in broker.urls:
                        click.echo(url)
                    await anext(signals)
                    tasks.start_soon(_end_at_once, signals, tasks.cancel_scope)
            except MBError as error:
                click.echo(f"mb serve: {error}", err=True)
                status = 1
            tasks.cancel_scope.cancel()
    return status


async def _end_at_once(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    """A second signal: wait for nothing more."""
    await anext(signals)
    scope.cancel()
