"""Run a broker until Ctrl-C or SIGTERM.

Prints the URLs it listens on, one per line; the log goes to stderr. When stopped, it accepts no new
connections and waits for answers to requests in flight; a second signal stops it at once. SIGHUP
reloads the access file, the certificates and the log level.

--listen accepts URLs of any installed transport, and can be repeated. On addresses that other
machines can reach, the broker starts only with --access, client certificates, or --open.

Each option can also be set in the environment (MB_TCP_PORT for --tcp-port) or in a TOML file
(tcp_port = 9081).  The command line overrides the environment, which overrides the file.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

import click

from ..errors import Status
from ..runner import run
from ..serve.broker import broker_failure, serve
from ..serve.check import check
from ..serve.environment import PREFIX, ignored_variables, misspelled_variables
from ..serve.log import set_up
from ..serve.options import (
    ServeOption,
    ServeOptions,
    options_of,
    read_file,
    serve_table,
    show,
)

_log = logging.getLogger("mb_tools.serve")


class _ServeCommand(click.Command):
    """Keeps its arguments, which are parsed again on reload."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = list(args)
        return super().parse_args(ctx, args)


@click.command(
    cls=_ServeCommand,
    params=[ServeOption(option) for option in serve_table()],
    context_settings={"auto_envvar_prefix": PREFIX},
    help=__doc__,
)
@click.option(
    "--config",
    metavar="FILE",
    show_envvar=True,
    is_eager=True,
    callback=read_file,
    help="TOML file that sets these options.",
)
@click.option(
    "--show-config",
    is_flag=True,
    allow_from_autoenv=False,
    help="Print the options in effect and exit.",
)
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    allow_from_autoenv=False,
    help="Check options and files, print who could connect and what would apply, and exit.",
)
@click.pass_context
def command(
    ctx: click.Context, /, show_config: bool, only_check: bool, **given: Any
) -> Status | None:
    options = options_of(ctx)
    names = [option.name for option in serve_table()]
    warnings = list(misspelled_variables(names, os.environ))
    if only_check:
        if show_config:
            click.echo(show(ctx, options) + "\n")
        click.echo(check(options, warnings))
        return None
    set_up(options.log_level, options.log_format)
    for warning in warnings:
        _log.warning(warning)
    for note in ignored_variables(names, os.environ):
        _log.info(note)
    if show_config:
        click.echo(show(ctx, options))
        return None

    def reload() -> ServeOptions:
        return options_of(command.make_context("serve", list(ctx.obj), parent=ctx.parent))

    try:
        return run(partial(serve, options, reload))
    except SystemExit as error:
        # A plugin has called sys.exit(), perhaps with 0: only a signal is a clean shutdown.
        raise broker_failure(error) from error
