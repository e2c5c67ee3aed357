"""The commands that show what the broker knows and does, and what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .endpoint import Endpoint, endpoint_options
from .exits import Status, run
from .options import SECONDS, count_option, json_option, timeout_option

if TYPE_CHECKING:
    from mb_core import LogLevel

__all__ = ["completion", "log", "metrics", "plugins", "services", "topics", "trace"]

_LEVELS = ["debug", "info", "warn", "error"]
_SHELLS = ["bash", "zsh", "fish"]


@click.command()
@endpoint_options
@json_option
def services(endpoint: Endpoint, as_json: bool) -> Status | None:
    """List the services that are connected to the broker."""
    from .lists import run_services

    return run(run_services, endpoint, as_json=as_json)


@click.command()
@endpoint_options
@json_option
def topics(endpoint: Endpoint, as_json: bool) -> Status | None:
    """List the topics that are subscribed to, and by whom."""
    from .lists import run_topics

    return run(run_topics, endpoint, as_json=as_json)


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option(
    "--watch", type=SECONDS, metavar="SECONDS", help="Print them again every SECONDS, until Ctrl-C."
)
@endpoint_options
@json_option
def metrics(
    endpoint: Endpoint, patterns: tuple[str, ...], watch: float | None, as_json: bool
) -> Status | None:
    """Print the broker's metrics, all or those whose names match.

    A PATTERN works as for file names: 'router.*', '*.rate'; quote it for the shell.
    """
    from .metrics import run as run_metrics

    return run(
        run_metrics,
        endpoint,
        patterns,
        watch=watch,
        as_json=as_json,
        following=watch is not None,
        endless=watch is not None,
    )


@click.command()
@click.option(
    "--level",
    "levels",
    type=click.Choice(_LEVELS, case_sensitive=False),
    multiple=True,
    default=["error"],
    show_default=True,
    help="Print entries of this level; can be given several times.",
)
@click.option("--regex", help="Print entries whose text matches this regular expression.")
@count_option("entries")
@timeout_option("Stop after MS milliseconds; exit with 1 if fewer than COUNT entries came.")
@endpoint_options
@json_option
def log(
    endpoint: Endpoint,
    levels: tuple[LogLevel, ...],
    regex: str | None,
    count: int | None,
    timeout: int | None,
    as_json: bool,
) -> Status | None:
    """Print the broker's log as it is written, from now on."""
    from .log import run as run_log

    return run(
        run_log,
        endpoint,
        levels=levels,
        regex=regex,
        count=count,
        timeout=timeout,
        as_json=as_json,
        following=True,
        endless=count is None and timeout is None,
    )


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option(
    "--errors", is_flag=True, help="Print only trees in which something failed or timed out."
)
@click.option("--system", is_flag=True, help="Include requests to the broker's own topics.")
@count_option("trees")
@endpoint_options
@json_option
def trace(
    endpoint: Endpoint,
    patterns: tuple[str, ...],
    errors: bool,
    system: bool,
    count: int | None,
    as_json: bool,
) -> Status | None:
    """Show live who sends requests to whom, what they cause, and how long they take.

    A message that another one caused (its parent id says so) is shown below it.  PATTERNs select
    the trees in which a topic matches.  On a pipe each tree is a line of JSON.
    """
    from .trace import run as run_trace

    return run(
        run_trace,
        endpoint,
        patterns,
        count=count,
        errors=errors,
        system=system,
        as_json=as_json,
        following=True,
        endless=count is None,
    )


@click.command()
@json_option
def plugins(as_json: bool) -> Status | None:
    """List the installed plugins: transports, front ends, codecs, observers, and what fails.

    Each is imported.
    """
    from mb_core.plugins import describe, installed_plugins

    from .plugins import run as run_plugins

    found = describe(installed_plugins())  # it may block: before there is an event loop
    return run(run_plugins, found, as_json=as_json)


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes `mb` commands and options with the Tab key.

    \b
    Put it where the shell looks for it, and open a new shell:
      mb completion bash > ~/.local/share/bash-completion/completions/mb
      mb completion zsh > ~/.zfunc/_mb
      mb completion fish > ~/.config/fish/completions/mb.fish

    For zsh, ~/.zshrc needs before compinit: fpath+=(~/.zfunc)
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "mb", "_MB_COMPLETE").source())
