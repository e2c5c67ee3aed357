"""Put a prefix before the name of every distribution: `nox -s prefix -- acme-`.

mb-core becomes acme-mb-core, for an index that has no place for the plain name (docs/releasing.md).
The names change wherever they are written: in the metadata and the ranges, in the `pip install ...`
of error messages, in the docs and the tests.  Folders and import names stay.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

__all__ = ["main", "names", "prefixed", "tracked"]

ROOT = Path(__file__).parents[1]

# So that it stays a valid name before any other: letters and digits, in groups.
_PREFIX = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*-")


def names(root: Path = ROOT) -> list[str]:
    """The names of the distributions, as their pyproject.toml has them."""
    projects = sorted(root.glob("packages/*/pyproject.toml"))
    return [tomllib.loads(path.read_text())["project"]["name"] for path in projects]


def tracked(root: Path = ROOT) -> list[Path]:
    """The files that git knows and that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    )
    paths = [root / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def prefixed(text: str, prefix: str, distributions: list[str]) -> str:
    """Return `text` with `prefix` before each name of a distribution, but not within paths."""
    alternatives = "|".join(map(re.escape, distributions))
    return re.sub(rf"(?<![\w/.-])({alternatives})(?![\w/-])", rf"{prefix}\1", text)


def main(arguments: list[str], root: Path = ROOT) -> str | None:
    """Write the prefix everywhere; return what is wrong with the arguments, None if nothing is."""
    if len(arguments) != 1 or not _PREFIX.fullmatch(arguments[0]):
        return (
            f"{' '.join(arguments)!r} is not a prefix: expected lower-case letters, digits and "
            "hyphens, with a hyphen at the end, as in acme-"
        )
    present = names(root)
    plain = [path.parent.name for path in sorted(root.glob("packages/*/pyproject.toml"))]
    if present != plain:
        return (
            f"the distributions have a prefix already ({present[0]}): start from a clean checkout"
        )
    for path in tracked(root):
        try:
            before = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue  # an image
        after = prefixed(before, arguments[0], plain)
        if after != before:
            path.write_bytes(after.encode())
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
