"""The blocks of a page of docs/, with the titles that say which files they are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mb_broker import RunningBroker

__all__ = ["EXAMPLES", "ROOT", "Block", "Command", "blocks", "commands", "files", "redirected"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@dataclass
class Block:
    """A fenced block: its language, the file that it is, and its text."""

    language: str
    title: str | None
    text: str


@dataclass
class Command:
    """A command of a console block, and the output that the page shows for it."""

    line: str
    output: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of docs/`page` in order."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(
        r'^(````?)(\w+)(?: title="([^"]+)")?\n(.*?)^\1$', text, re.DOTALL | re.MULTILINE
    )
    return [Block(language, title or None, body) for _, language, title, body in found]


def files(page: str) -> dict[str, str]:
    """Return the files of a page; the last block of a title counts."""
    return {block.title: block.text for block in blocks(page) if block.title is not None}


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block."""
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    return [Command(line, output) for line, output in found]


def redirected(broker: RunningBroker) -> dict[str, str]:
    """Return an environment in which the default ports of localhost lead to `broker`."""
    ws = broker.url_of("ws").removeprefix("ws://")
    tcp = broker.url_of("tcp").removeprefix("tcp://")
    return {
        **os.environ,
        "MB_CONNECT_TO": f"localhost:8080={ws},localhost:8081={tcp}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "error",
    }
