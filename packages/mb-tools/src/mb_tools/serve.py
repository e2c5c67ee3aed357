"""`mb serve`: a broker on TCP, WebSocket and whatever else is installed, with and without TLS."""

from __future__ import annotations

import logging
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import click

from mb_broker.options import option_table
from mb_client import Broker, BrokerOptions, installed_plugins
from mb_core.url import parse_url

from .config import OFF, PORTS, Configuration, ServeOptions
from .exits import Failure, Status, discard_output

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
    _expect("certificate", "tls_cert", cert)
    _expect("private key", "tls_key", key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def password() -> str:  # without this, OpenSSL would ask on the terminal
        raise _unusable("tls_key", key, "it has a password, and must have none")

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"it does not belong to the certificate in tls_cert {cert}"
            raise _unusable("tls_key", key, text) from error
        text = f"OpenSSL can't use it with tls_key {key}: {error}"
        raise _unusable("tls_cert", cert, text) from error
    if client_ca is not None:
        _expect("certificate", "tls_client_ca", client_ca)
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            text = f"OpenSSL can't use it: {error}"
            raise _unusable("tls_client_ca", client_ca, text) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _expect(what: str, name: str, file: str) -> None:
    """OpenSSL names neither the file that it can't read nor what it misses in it."""
    try:
        text = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise _unusable(name, file, getattr(error, "strerror", None) or str(error)) from error
    if what.upper().encode() + b"-----" not in text:
        raise _unusable(name, file, f"there is no {what} in it, in PEM")


def _unusable(name: str, file: str, why: str) -> Failure:
    return Failure(f"{name} {file}: {why}", Status.USAGE)


async def _end_at_once(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    """A second signal: wait for nothing more."""
    name = (await anext(signals)).name
    _log.warning("%s: the broker ends at once", name, extra={"mb": {"signal": name}})
    scope.cancel()
