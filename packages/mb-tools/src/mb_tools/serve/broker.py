"""The broker of `mb serve`: its TLS files, and how it handles signals."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import click
from msgspec.structs import replace

from mb_broker.options import option_table
from mb_client import Broker, MBError

from ..errors import Failure, Status
from ..standard_streams import discard
from ..tls_files import load_authorities, load_certificate
from .addresses import addresses, check_open, urls
from .open_files import allow_open_files
from .options import ServeOptions

__all__ = ["broker_failure", "prepared", "serve", "server_context"]

_log = logging.getLogger("mb_tools.serve")


async def serve(options: ServeOptions, read_again: Callable[[], ServeOptions]) -> None:
    """Serve until SIGINT or SIGTERM; print the URLs it listens on, one per line.

    On SIGHUP, call `read_again` for the options; new certificates and log level take effect, and so
    does the access file.
    """
    allow_open_files(options.max_connections)
    broker, certificates = prepared(options)
    ending = anyio.Event()
    at_terminal = os.isatty(_STDERR)

    async def handle(signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            # Closing the terminal sends SIGHUP as well; then stdin is no longer a terminal.
            if number.name == "SIGHUP" and not (at_terminal and not os.isatty(_STDERR)):
                _reload(broker, options, read_again, certificates)
                continue
            if ending.is_set():
                signal.raise_signal(number)
            for deadly in _ENDING:  # a second signal ends the process at once, whatever it is doing
                signal.signal(deadly, signal.SIG_DFL)
            _log.info(
                "%s: no new connections; the requests in flight have %d ms "
                "(a second signal ends the broker at once)",
                number.name,
                options.drain_timeout,
                extra={"mb": {"signal": number.name}},
            )
            ending.set()

    listening = False
    try:
        with anyio.open_signal_receiver(*_ENDING, *_reloading()) as signals:
            async with anyio.create_task_group() as tasks:
                async with broker:
                    listening = True
                    _print_urls(broker.urls)
                    tasks.start_soon(handle, signals)
                    await ending.wait()
                tasks.cancel_scope.cancel()
    except Exception as error:
        if not listening:
            raise
        # Of any type: a BrokenPipeError, for example, would look as if our reader had exited.
        raise broker_failure(error) from error
    _log.info("the broker has ended")


def prepared(options: ServeOptions) -> tuple[Broker, _Certificates | None]:
    """Return a broker that doesn't listen yet, and its certificates, if it has any.

    Raises Failure or the library's errors if an option or a file is invalid, or if the broker would
    be open to other machines.
    """
    context = server_context(options)
    if context is None:
        for each in addresses(options):
            if each.needs_certificate:
                raise Failure(f"listen {each.parsed} needs tls_cert and tls_key", Status.USAGE)
    check_open(options)
    certificates = None if context is None else _Certificates(context)
    settings: Any = {each.name: getattr(options, each.name) for each in option_table()}
    return Broker(*urls(options), ssl_context=certificates, **settings), certificates


def broker_failure(error: BaseException) -> Failure:
    """Log an error of the broker itself or of a plugin, and return the error to raise."""
    _log.error("internal error: the broker has failed", exc_info=error)
    return Failure("the broker has failed: an internal error, see the log")


_ENDING = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2  # its descriptor, because Python has no object for a closed one


def _reloading() -> list[signal.Signals]:
    """Return the signal that reloads, or None: Windows has none, and under nohup it is ignored."""
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN:
        return []
    return [hang_up]


def _reload(
    broker: Broker,
    options: ServeOptions,
    read_again: Callable[[], ServeOptions],
    certificates: _Certificates | None,
) -> None:
    """Apply the access file, new certificates and the log level, or log why nothing changes."""
    try:
        fresh = read_again()
        context = server_context(fresh)
        check_open(fresh)
        if context is not None:
            # Without their client CAs, the ports that are open now would be open to everyone.
            files = {name: getattr(fresh, name) for name in _TLS_FILES}
            check_open(replace(options, open=options.open or fresh.open, **files))
        if options.access is not None:
            broker.reload_access()
    except (Failure, MBError) as failure:
        _log.error("SIGHUP: nothing was reloaded, and the broker continues as before: %s", failure)
        return
    read = []
    if options.access is not None:
        read.append(f"access file {options.access}")
    if certificates is not None and context is not None:
        certificates.current = context
        read.append("certificates")
    logging.getLogger().setLevel(fresh.log_level.upper())
    read.append(f"log_level {fresh.log_level}")
    _log.info("SIGHUP: reloaded %s", " and ".join(", ".join(read).rsplit(", ", 1)))
    live = ("log_level",) if context is None else ("log_level", *_TLS_FILES)
    changed = [
        name
        for name in options.__struct_fields__
        if name not in live and getattr(fresh, name) != getattr(options, name)
    ]
    if changed:
        _log.warning("SIGHUP: restart the broker to apply %s", ", ".join(changed))


_TLS_FILES = ("tls_cert", "tls_key", "tls_client_ca")


class _Certificates(ssl.SSLContext):
    """The TLS context of all listeners; new connections use the `current` one."""

    current: ssl.SSLContext

    def __new__(cls, current: ssl.SSLContext) -> _Certificates:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self.current = current
        self.verify_mode = current.verify_mode
        return self

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self.current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _print_urls(urls: list[str]) -> None:
    """Print where the broker listens; it serves even without stdout, as a daemon."""
    try:
        for url in urls:
            click.echo(url)
    except OSError as error:
        _log.warning(
            "can't write the URLs to standard output: %s (%s)", error.strerror, ", ".join(urls)
        )
        discard(sys.stdout)


def server_context(options: ServeOptions, *, client_ca: bool = True) -> ssl.SSLContext | None:
    """Return the TLS context for these files, or None without a certificate; raises Failure.

    `client_ca` is whether to require certificates of clients if the options do.
    """
    cert, key, authorities = options.tls_cert, options.tls_key, options.tls_client_ca
    if cert is None or key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, ("tls_cert", cert), ("tls_key", key))
    if client_ca and authorities is not None:
        load_authorities(context, "tls_client_ca", authorities)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
