"""The entry points of installed distributions, through which plugins are found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import metadata

from ..errors import ConnectError
from .kinds import GROUPS

__all__ = ["EntryPoint", "read_entry_points"]


def read_entry_points() -> list[metadata.EntryPoint]:
    """Return those that are for MB; raises ConnectError if the system can't read them."""
    with _reading_files():
        found = metadata.entry_points()  # all: looking for one group reads the files of all as well
    return [entry for group in GROUPS for entry in found.select(group=group)]


class EntryPoint:
    """What an installed plugin announces.  Its owner's name is read from a file, when needed."""

    def __init__(self, entry: metadata.EntryPoint) -> None:
        self.group = entry.group
        self.name = entry.name
        self.value = entry.value
        self.load = entry.load
        self._distribution = entry.dist

    @cached_property
    def owner(self) -> str:
        """The name of the plugin: that of its distribution."""
        with _reading_files():
            return self._distribution.name if self._distribution is not None else self.name

    @property
    def version(self) -> str:
        return self._distribution.version if self._distribution is not None else ""


@contextmanager
def _reading_files() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        from ..link.sockets import system_error  # only loaded if something is wrong

        text = f"can't read the installed plugins: {system_error(error)}"
        raise ConnectError(text) from error
