"""`mb plugins`: what is installed that extends MB, and what of it can't be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata

from mb_core import PluginError, Plugins
from mb_core.hookspecs import PROJECT

from .output import Output, json_line

__all__ = ["Installed", "installed", "run"]


@dataclass(frozen=True, slots=True)
class Installed:
    """An entry point of the group `mb`; `error` says why it can't be used."""

    plugin: str
    distribution: str | None
    version: str | None
    schemes: tuple[str, ...]
    error: str | None


def installed(entry_points: Iterable[metadata.EntryPoint] | None = None) -> list[Installed]:
    """Load each plugin by itself, so that one that fails takes nobody's place."""
    if entry_points is None:
        entry_points = metadata.entry_points(group=PROJECT)
    found = [_load(entry_point) for entry_point in entry_points]
    return _conflicts(sorted(found, key=lambda entry: (entry.distribution or "", entry.plugin)))


async def run(*, as_json: bool) -> None:
    """Print the plugins."""
    output = Output(as_json)
    found = installed()
    if output.people:
        _print_table(found)
    else:
        await output.write("".join(json_line(asdict(entry)) for entry in found))


def _load(entry_point: metadata.EntryPoint) -> Installed:
    dist = entry_point.dist
    schemes: tuple[str, ...] = ()
    error = None
    plugins = Plugins()
    try:
        plugins.register(entry_point.load(), entry_point.name)
        schemes = tuple(plugins.schemes())
    except PluginError as failed:
        error = str(failed.__cause__ or failed)
    except Exception as failed:  # whatever a stranger's module raises while it is imported
        error = f"{type(failed).__name__}: {failed}"
    return Installed(
        entry_point.name,
        dist.name if dist is not None else None,
        dist.version if dist is not None else None,
        schemes,
        error,
    )


def _conflicts(found: list[Installed]) -> list[Installed]:
    """A scheme that two plugins speak is spoken by none: both are told."""
    told = []
    for entry in found:
        others = {
            scheme: other.distribution or other.plugin
            for other in found
            if other is not entry
            for scheme in set(entry.schemes) & set(other.schemes)
        }
        error = entry.error
        if others:
            error = "; ".join(
                f"{scheme}:// is spoken by {name} too: uninstall one"
                for scheme, name in sorted(others.items())
            )
        told.append(
            Installed(entry.plugin, entry.distribution, entry.version, entry.schemes, error)
        )
    return told


def _print_table(found: Iterable[Installed]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for column in ("plugin", "distribution", "version", "schemes", ""):
        table.add_column(column, overflow="fold")
    for entry in found:
        schemes = " ".join(f"{scheme}://" for scheme in entry.schemes)
        state = Text(entry.error, style="red") if entry.error else Text("ok", style="green")
        cells = (entry.plugin, entry.distribution or "-", entry.version or "-", schemes)
        table.add_row(*map(Text, cells), state)
    Console().print(table)
