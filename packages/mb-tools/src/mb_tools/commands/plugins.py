"""List the installed plugins: transports, front ends, codecs, authenticators and observers.

Each is imported, and those that fail are shown with the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mb_core.plugins import PluginState, describe, installed_plugins

from ..errors import Status
from ..output import FOLDED, WHOLE, Output
from ..runner import run
from ..shared_options import json_option
from ..text import UNKNOWN, one_line

if TYPE_CHECKING:
    from rich.text import Text


@click.command(help=__doc__)
@json_option
def command(as_json: bool) -> Status | None:
    reports = describe(installed_plugins())  # it may block, so call it before the event loop starts
    entries = [
        {
            "kind": each.plugin.kind,
            "name": each.plugin.name,
            "distribution": each.plugin.distribution,
            "version": each.plugin.version,
            "state": each.state,
            "error": each.error,
        }
        for each in reports
    ]
    columns = {"kind": WHOLE, "name": WHOLE, "distribution": WHOLE, "version": WHOLE}

    async def show() -> None:
        await Output(as_json).print_entries(entries, {**columns, "state": FOLDED}, _row)

    return run(show)


def _row(entry: Mapping[str, Any]) -> tuple[str | Text, ...]:
    from rich.text import Text

    kind, name, state = entry["kind"], entry["name"], Text("ok", style="green")
    if entry["state"] != PluginState.OK:
        state = Text(f"{entry['state']}: {one_line(entry['error'] or '')}", style="red")
    shown = f"{name}://" if kind == "transport" else name
    return kind, shown, entry["distribution"], entry["version"] or UNKNOWN, state
