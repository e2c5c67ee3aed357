"""Imports that happen only when needed, so that start-up is fast."""

from __future__ import annotations

import subprocess
import sys

import pytest

HELP = """
import sys
from mb_tools.cli import main
sys.argv = ["mb", "--help"]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        (
            "import mb_core",
            [
                "asyncio",
                "trio",
                "ssl",
                "mb_broker",
                "mb_sync",
                "mb_tcp",
                "mb_ws",
                "websockets",
            ],
        ),
        ("import mb_client", ["trio", "websockets", "psutil"]),
        ("import mb_broker", ["mb_testing", "pytest", "psutil", "jwt", "cryptography"]),
        (
            HELP,
            ["asyncio", "trio", "mb_core.client", "mb_broker.broker", "textual"],
        ),
    ],
    ids=["mb_core", "mb_client", "mb_broker", "mb --help"],
)
def test_it_is_not_imported_before(program: str, absent: list[str]) -> None:
    say = f"{program}\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True)
    assert not set(absent) & set(done.stderr.split())


READS = """
import sys

def hook(event, arguments):
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so", ".pyd")):
        print(*arguments, file=sys.stderr)

import ssl, ctypes.util, uuid, platform  # some of Python's own read files
import anyio, asyncio, click, msgspec, pluggy, trio, websockets
sys.addaudithook(hook)
import mb_client, mb_sync, mb_tcp.plugin, mb_ws.plugin, mb_broker.plugin, mb_tools.cli
import mb_core.link.asyncio_backend, mb_core.link.trio_backend, mb_core.frontends
import mb_broker.http, mb_tools.commands.serve
"""


def test_no_file_is_read_at_import() -> None:
    """A frozen program or a zipped one has the modules, and often nothing beside them."""
    # Without -B, modules that are not compiled yet are written.
    command = [sys.executable, "-B", "-c", READS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
