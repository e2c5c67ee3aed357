"""Write where the project lives into every package: `nox -s urls -- https://git.example/acme/mb`.

Package indexes show these addresses beside the description.  They have the form that GitHub and
Forgejo use; without an argument, print the address that is written now.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

__all__ = ["files", "main", "repository", "rewritten"]

ROOT = Path(__file__).parents[1]

_TABLE = re.compile(r"\n\[project\.urls\]\n(?:\w+ = .*\n)+")
_ADDRESS = re.compile(r"https://[\w.-]+(?:/[\w.-]+)+")


def files(root: Path = ROOT) -> list[Path]:
    return sorted(root.glob("packages/*/pyproject.toml"))


def repository(path: Path) -> str | None:
    """The address that a package's pyproject.toml has."""
    urls = tomllib.loads(path.read_text())["project"].get("urls", {})
    return urls.get("Source")


def rewritten(text: str, address: str) -> str:
    """Return the text of a pyproject.toml with the URLs of the project at `address`."""
    tree = f"{address}/blob/main"
    table = (
        "\n[project.urls]\n"
        f'Documentation = "{tree}/docs/index.md"\n'
        f'Changelog = "{tree}/CHANGELOG.md"\n'
        f'Issues = "{address}/issues"\n'
        f'Source = "{address}"\n'
    )
    text = _TABLE.sub("", text)
    # Behind the table [project], so before the first of the tables that belong to it.
    start = re.search(r"^\[(?!build-system\]|project\])", text, re.MULTILINE)
    if start is None:
        return text.rstrip("\n") + "\n" + table
    return text[: start.start()] + table.lstrip("\n") + "\n" + text[start.start() :]


def main(arguments: list[str], root: Path = ROOT) -> str | None:
    """Write the address everywhere; return what is wrong with the arguments, None if nothing is."""
    if not arguments:
        print(repository(files(root)[0]))
        return None
    address = arguments[0].rstrip("/")
    if len(arguments) > 1 or not _ADDRESS.fullmatch(address):
        return (
            f"{' '.join(arguments)!r} is not the address of a repository: expected one such as "
            "https://git.example/acme/mb"
        )
    for path in files(root):
        path.write_text(rewritten(path.read_text(), address))
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
