"""The instructions of a Dockerfile, as Docker reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Instruction", "stages"]


class Instruction(NamedTuple):
    name: str
    text: str

    @property
    def command(self) -> list[str]:
        """The command in exec form; raises ValueError for one that a shell would run."""
        command: list[str] = json.loads(self.text)
        return command


def stages(path: Path) -> list[list[Instruction]]:
    """The instructions of each stage, which begins with its FROM."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, text = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append(Instruction(name, text.strip()))
    return found
