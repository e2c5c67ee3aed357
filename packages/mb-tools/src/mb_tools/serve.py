"""`mb serve`: a broker on TCP, WebSocket and whatever else is installed, with and without TLS."""

from __future__ import annotations

import logging
import signal
import ssl
from collections.abc import AsyncIterator
from typing import Any

import anyio
import click

from mb_broker.options import option_table
from mb_client import Broker, BrokerOptions, installed_plugins
from mb_core.url import parse_url

from .config import OFF, PORTS, Configuration, ServeOptions
from .exits import Failure, Status, discard_output
from .tls_files import load_authorities, load_certificate

__all__ = ["serve", "server_context", "urls"]


_log = logging.getLogger("mb_tools.serve")

# Files of the process that are no connections: listeners, the event loop's own, logs, plugins.
_OTHER_FILES = 64


async def serve(configuration: Configuration) -> None:
    """Serve until SIGINT or SIGTERM; prints the URLs on which it listens, one a line."""
    options = configuration.options
    _allow_files(options["max_connections"])
    context = server_context(options)
    if context is None:
        _expect_no_tls(options["listen"])
    broker = Broker(*urls(options), ssl_context=context, **_of_broker(options))
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            async with broker:
                _print_urls(broker.urls)
                name = (await anext(signals)).name
                _log.info(
                    "%s: no new connections; the requests in flight have %d ms",
                    name,
                    options["drain_timeout"],
                    extra={"mb": {"signal": name}},
                )
                tasks.start_soon(_end_at_once, signals, tasks.cancel_scope)
            tasks.cancel_scope.cancel()
    _log.info("the broker has ended")


def _print_urls(urls: list[str]) -> None:
    """Print where the broker listens; a daemon may have no stdout, and serves all the same."""
    try:
        for url in urls:
            click.echo(url)
    except OSError as error:
        _log.warning(
            "can't write the URLs to standard output: %s (%s)", error.strerror, ", ".join(urls)
        )
        discard_output()


def urls(options: ServeOptions) -> list[str]:
    """Where to listen."""
    host = options["host"]
    host = f"[{host}]" if ":" in host else host
    ports = [
        f"{name.removesuffix('_port')}://{host}:{options[name]}"
        for name in PORTS
        if options[name] != OFF
    ]
    return [*ports, *options["listen"]]


def _of_broker(options: ServeOptions) -> BrokerOptions:
    """The options that are the broker's own."""
    own: Any = {
        option.name: options[option.name]  # type: ignore[literal-required]
        for option in option_table()
    }
    given: BrokerOptions = own
    return given


def _expect_no_tls(listen: list[str]) -> None:
    """Without a certificate none of these can be within TLS; raises Failure, PluginError."""
    for url in listen:
        transport = installed_plugins().transport(parse_url(url).scheme)
        if getattr(transport, "secure", False):
            raise Failure(f"listen {url} needs tls_cert and tls_key", Status.USAGE)


def _allow_files(connections: int) -> None:
    """Each connection takes a file: raise the process's limit as far as it may be."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return
    allowed = wanted if hard == unlimited else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "this process may open %d files, too few for max_connections %d: see ulimit -n",
            allowed,
            connections,
        )


def server_context(options: ServeOptions) -> ssl.SSLContext | None:
    """The TLS context for these files, None without a certificate; raises Failure."""
    cert, key, client_ca = options["tls_cert"], options["tls_key"], options["tls_client_ca"]
    if cert is None or key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, ("tls_cert", cert), ("tls_key", key))
    if client_ca is not None:
        load_authorities(context, "tls_client_ca", client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _end_at_once(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    """A second signal: wait for nothing more."""
    name = (await anext(signals)).name
    _log.warning("%s: the broker ends at once", name, extra={"mb": {"signal": name}})
    scope.cancel()
