"""How long programs take to begin: importing each package, and `mb --help`.

    python -m benchmarks.startup [--rounds 25]

Each in a process of its own, in turns; of the rounds the shortest counts, which others on the
machine disturb least.  Times are in milliseconds beyond a Python that does nothing.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

CASES = {
    "import mb_core": ["-c", "import mb_core"],
    "import mb_tcp": ["-c", "import mb_tcp"],
    "import mb_ws": ["-c", "import mb_ws"],
    "import mb_broker": ["-c", "import mb_broker"],
    "import mb_sync": ["-c", "import mb_sync"],
    "import mb_client": ["-c", "import mb_client"],
    "mb --help": [str(Path(sys.executable).with_name("mb")), "--help"],
    # To compare with: what nearly every program here imports as well.
    "import asyncio": ["-c", "import asyncio"],
    "import anyio": ["-c", "import anyio"],
    "import msgspec": ["-c", "import msgspec"],
}


def seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    rounds: int = parser.parse_args().rounds
    bare = ["-c", "pass"]
    best = dict.fromkeys(["bare", *CASES], float("inf"))
    for _ in range(rounds):
        for name, arguments in {"bare": bare, **CASES}.items():
            best[name] = min(best[name], seconds(arguments))
    print(f"CPython {platform.python_version()}, the shortest of {rounds} rounds")
    for name in CASES:
        print(f"{name:20}{1000 * (best[name] - best['bare']):8.1f} ms")


if __name__ == "__main__":
    main()
