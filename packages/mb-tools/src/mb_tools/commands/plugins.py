"""List the installed plugins: transports, front ends, codecs, observers, and what fails.

Each is imported.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

from mb_core.plugins import PluginReport, PluginState, describe, installed_plugins

from ..errors import Status
from ..options import json_option
from ..output import Output, print_table
from ..payloads import json_line
from ..runner import run


@click.command(help=__doc__)
@json_option
def command(as_json: bool) -> Status | None:
    found = describe(installed_plugins())  # it may block: before there is an event loop

    async def show() -> None:
        output = Output(as_json)
        if output.people:
            _print_table(found)
        else:
            await output.write("".join(json_line(_as_json(entry)) for entry in found))

    return run(show)


def _as_json(entry: PluginReport) -> dict[str, str | None]:
    plugin = entry.plugin
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "state": entry.state,
        "error": entry.error,
    }


def _print_table(found: Iterable[PluginReport]) -> None:
    from rich.text import Text

    from ..text import one_line

    def row(entry: PluginReport) -> tuple[str | Text, ...]:
        plugin = entry.plugin
        name = f"{plugin.name}://" if plugin.kind == "transport" else plugin.name
        state = Text("ok", style="green")
        if entry.state is not PluginState.OK:
            state = Text(f"{entry.state}: {one_line(entry.error or '')}", style="red")
        return plugin.kind, name, plugin.distribution, plugin.version or "-", state

    whole = {"no_wrap": True}
    columns = {"kind": whole, "name": whole, "distribution": whole, "version": whole}
    print_table({**columns, "state": {"overflow": "fold"}}, map(row, found))
