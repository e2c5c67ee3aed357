"""Print a script that completes `mb` commands and options with the Tab key.

\b
Put it where the shell looks for it, and open a new shell:
  mb completion bash > ~/.local/share/bash-completion/completions/mb
  mb completion zsh > ~/.zfunc/_mb
  mb completion fish > ~/.config/fish/completions/mb.fish

For zsh, ~/.zshrc needs before compinit: fpath+=(~/.zfunc)
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(help=__doc__)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "mb", "_MB_COMPLETE").source())
