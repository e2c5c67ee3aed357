"""Set the version of everything: `nox -s version -- 0.2.0`; without an argument, print it.

The distributions are released together, so they have one version: that of pyproject.toml at the
root.  From it follow the versions of all packages, and the range in which they need each other: at
least the same release, and none that may break them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["compatible", "files", "main", "rewritten", "workspace_version"]

ROOT = Path(__file__).parents[1]

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)((?:a|b|rc)\d+)?")
_OWN_VERSION = re.compile(r'^version = "[^"]*"$', re.MULTILINE)


def workspace_version(root: Path = ROOT) -> str:
    """The version that is written in the root's pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def files(root: Path = ROOT) -> list[Path]:
    """Where versions and ranges are written: of the packages, and where others copy from."""
    return [
        root / "pyproject.toml",
        *sorted(root.glob("packages/*/pyproject.toml")),
        *sorted(root.glob("examples/*/pyproject.toml")),
        *sorted(root.glob("docs/tutorial-*.md")),
    ]


def compatible(version: str) -> str:
    """The range of versions that work for a program that was written for `version`.

    It ends before the next minor version while the major one is 0, then before the next major one.
    """
    major, minor, patch, pre = _parts(version)
    least = f"{major}.{minor}" if patch == 0 and not pre else version
    return f">={least},<0.{minor + 1}" if major == 0 else f">={least},<{major + 1}"


def rewritten(path: Path, version: str, root: Path = ROOT) -> str:
    """The text of a file of `files` in this version."""
    text = path.read_text()
    if path.parent == root or path.parent.parent == root / "packages":
        text = _OWN_VERSION.sub(f'version = "{version}"', text, count=1)
    names = "|".join(_distributions(root))
    needs = rf'"((?:{names})(?:\[[\w,-]+\])?)\s*[~=<>!][^"]*"'
    return re.sub(needs, rf'"\1{compatible(version)}"', text)


def main(arguments: list[str], root: Path = ROOT) -> str | None:
    """What is wrong with the arguments, or None when it is done."""
    if not arguments:
        print(workspace_version(root))
        return None
    version = arguments[0]
    if len(arguments) > 1 or not _VERSION.fullmatch(version):
        return f"{' '.join(arguments)!r} is not a version: expected three numbers, as in 0.2.0"
    if f"\n## {version} (" not in (root / "CHANGELOG.md").read_text():
        return f"CHANGELOG.md has no section '## {version} (...)': describe the changes first"
    for path in files(root):
        path.write_text(rewritten(path, version, root))
    return None


def _parts(version: str) -> tuple[int, int, int, str]:
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ValueError(f"{version!r} is not a version: expected three numbers, as in 0.2.0")
    major, minor, patch, pre = found.groups()
    return int(major), int(minor), int(patch), pre or ""


def _distributions(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("packages/*/pyproject.toml")):
        yield str(tomllib.loads(path.read_text())["project"]["name"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
