"""Run a broker until Ctrl-C or SIGTERM.

Prints the URLs it listens on, one per line; its log goes to stderr.  When stopped, it accepts
no new connections and waits for the answers to requests in flight; a second signal ends it at
once.  SIGHUP reloads certificates and the log level.

--listen accepts any URL of an installed transport, and can be repeated.

Each option can also be set in the environment (MB_TCP_PORT for --tcp-port) or in a TOML file
(tcp_port = 9081).  The command line overrides the environment, which overrides the file.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Literal, get_args, get_origin

import click

from mb_broker.options import Option

from ..config import configure, serve_table, show, split
from ..log_format import set_up
from ..runner import run
from ..serving import broken, serve


def _serve(**given: Any) -> Any:
    file, only_show = given.pop("config"), given.pop("show_config")
    options = {k: v for k, v in given.items() if v is not None}
    configuration = configure(options, file)
    set_up(configuration.options.log_level, configuration.options.log_format)
    for warning in configuration.warnings:
        logging.getLogger("mb_tools.serve").warning(warning)
    for note in configuration.notes:
        logging.getLogger("mb_tools.serve").info(note)
    if only_show:
        click.echo(show(configuration))
        return None
    try:
        return run(partial(serve, configuration, lambda: configure(options, file)))
    except SystemExit as error:
        # A plugin has called sys.exit(), perhaps with 0: only a signal ends the broker in order.
        raise broken(error) from error


def _parameters() -> list[click.Parameter]:
    def option(entry: Option) -> click.Option:
        name = entry.name.replace("_", "-")
        default = "" if entry.default in (None, [], "off") else f"  [default: {_shown(entry)}]"
        if entry.kind is bool:
            return click.Option(
                [f"--{name}/--no-{name}"], default=None, help=f"{entry.about}{default}"
            )
        several = entry.kind == list[str]
        return click.Option(
            [f"--{name}"],
            metavar=_metavar(entry),
            help=f"{entry.about}{default}",
            multiple=several,
            callback=(lambda ctx, param, texts: _joined(texts)) if several else None,
        )

    return [
        *map(option, serve_table()),
        click.Option(
            ["--config"],
            envvar="MB_CONFIG",
            metavar="FILE",
            show_envvar=True,
            help="TOML file with these options.",
        ),
        click.Option(["--show-config"], is_flag=True, help="Print what holds, and do not serve."),
    ]


def _joined(texts: tuple[str, ...]) -> list[str] | None:
    """What a list was given as: several times, or with commas."""
    return [part for text in texts for part in split(list[str], text)] if texts else None


def _shown(entry: Option) -> str:
    default = entry.default
    if isinstance(default, bool):
        return entry.name if default else f"no-{entry.name}"
    return str(default)


def _metavar(entry: Option) -> str:
    if entry.kind == list[str] and not entry.unit:
        return "LIST"
    if get_origin(entry.kind) is Literal:
        return "|".join(get_args(entry.kind))
    return (entry.unit or ("NUMBER" if entry.kind is int else "TEXT")).upper()


command = click.Command("serve", params=_parameters(), callback=_serve, help=__doc__)
