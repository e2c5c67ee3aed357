"""The command `mb`: finds the commands, and maps their outcome to an exit status."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from . import commands
from .errors import Failure, Status, failure_of, report
from .standard_streams import discard_unwritable, open_missing_streams

__all__ = ["main"]


class CommandInModule(click.Command):
    """A command whose module, of the same name, is imported when the command is called."""

    @property
    def module(self) -> str:
        return f"{commands.__name__}.{self.name}"

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **more: Any,
    ) -> click.Context:
        command: click.Command = import_module(self.module).command
        return command.make_context(info_name, args, parent, **more)

    def get_short_help_str(self, limit: int = 45) -> str:
        # The module's docstring is the help; importing the module for it would take too long.
        spec = find_spec(self.module)
        code = spec.loader.get_code(self.module)  # type: ignore[union-attr]
        docstring = code.co_consts[0]
        self.help = docstring if isinstance(docstring, str) else None  # none with python -OO
        return super().get_short_help_str(limit)


class CommandGroup(click.Group):
    """All commands. Every outcome becomes an exit status and at most one line on stderr."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        open_missing_streams()
        status: int | None
        try:
            status = super().main(args, prog_name, complete_var, False, **extra)
            sys.stdout.flush()
        except click.Abort:
            status = Status.INTERRUPTED
        except BrokenPipeError:  # the reader of our output has exited: `mb sub '#' | head -1`
            status = Status.SUCCESS
        except (click.ClickException, OSError) as error:  # OSError: from --help and --version
            failure = failure_of(error) if isinstance(error, OSError) else error
            report(failure)
            status = failure.status if isinstance(failure, Failure) else failure.exit_code
        discard_unwritable()
        sys.exit(status or Status.SUCCESS)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        except (click.UsageError, BrokenPipeError):
            raise
        except Exception as error:
            failure = error if isinstance(error, Failure) else failure_of(error)
            failure.path = " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand)))
            raise failure from error.__cause__ if failure is error else error


@click.group(
    cls=CommandGroup,
    commands=[CommandInModule(module.name) for module in pkgutil.iter_modules(commands.__path__)],
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
