"""What the parts of an access file share: tables as objects, and files that nobody else can change.

Everything here raises ValueError, whose text is one line that does not name the table.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec

__all__ = ["convert", "hint", "read_trusted"]

S = TypeVar("S", bound=msgspec.Struct)


def convert(table: Any, kind: type[S]) -> S:
    """Return a table of the file as an object."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        what = path.strip(".`")
        text = text[0].lower() + text[1:]
        near = ""
        if text.startswith("object contains unknown field"):
            unknown = text.split("`")[1]
            text = f"unknown key {unknown!r}"
            near = hint(unknown, kind.__struct_fields__)
        elif text.startswith("object missing required field"):
            text = f"the key {text.split('`')[1]!r} is missing"
        raise ValueError(f"{f'{what}: ' if what else ''}{text}{near}") from None


def hint(name: str, known: Iterable[str]) -> str:
    """Return what may have been meant, for an error about an unknown name."""
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; expected one of: {', '.join(known)}"


def read_trusted(path: Path, *, secret: bool = False) -> bytes:
    """Return the content of a file that decides who may do what.

    Other users of the machine must not be able to write it, nor to read it if it is `secret`.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ValueError(f"other users of this machine can write it: chmod go-w {path}")
            if os.name == "posix" and secret and mode & stat.S_IROTH:
                raise ValueError(f"other users of this machine can read it: chmod o-r {path}")
            return file.read()
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror or error}") from error
