"""`mb plugins`: what is installed that extends MB, and what of it can't be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mb_core.plugins import PluginReport, PluginState

from .exits import one_line
from .output import Output, json_line

__all__ = ["run"]


async def run(found: Iterable[PluginReport], *, as_json: bool) -> None:
    """Print what was found out about the installed plugins."""
    output = Output(as_json)
    if output.people:
        _print_table(found)
    else:
        await output.write("".join(json_line(_as_json(entry)) for entry in found))


def _as_json(entry: PluginReport) -> dict[str, Any]:
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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for column in ("kind", "name", "distribution", "version"):
        table.add_column(column, no_wrap=True)
    table.add_column("state", overflow="fold")
    for entry in found:
        plugin = entry.plugin
        name = f"{plugin.name}://" if plugin.kind == "transport" else plugin.name
        cells = (plugin.kind, name, plugin.distribution, plugin.version or "-")
        table.add_row(*(Text(one_line(cell)) for cell in cells), _state(entry))
    Console().print(table)


def _state(entry: PluginReport) -> Any:
    from rich.text import Text

    if entry.state is PluginState.OK:
        return Text("ok", style="green")
    return Text(f"{entry.state}: {one_line(entry.error or '')}", style="red")
