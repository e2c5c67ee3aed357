"""`mb plugins` with distributions of all sorts installed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from .distributions import CODEC, FRONTEND, OBSERVER, TRANSPORT, Environment

RAISES = "raise OSError('no such device')"
HANGS = "import threading; threading.Event().wait()"


def listed(environment: Environment) -> dict[tuple[str, str], dict[str, Any]]:
    """What `mb plugins` prints, by name and distribution."""
    done = environment.mb("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return {(entry["name"], entry["distribution"]): entry for entry in entries}


def test_third_parties_are_listed_beside_ours(environment: Environment) -> None:
    environment.install("mb-acme", TRANSPORT, "2.0", transports=["acme"])
    environment.install("mb-repr", CODEC, "2.1", codecs=["repr"])
    environment.install("mb-windows", FRONTEND, "2.2", frontends=["windows"])
    environment.install("mb-print", OBSERVER, "2.3", observers=["print"])
    found = listed(environment)
    third_parties = [
        (entry["kind"], entry["name"], entry["distribution"], entry["version"])
        for entry in found.values()
        if entry["version"].startswith("2.")
    ]
    assert third_parties == [
        ("transport", "acme", "mb-acme", "2.0"),
        ("front end", "windows", "mb-windows", "2.2"),
        ("codec", "repr", "mb-repr", "2.1"),
        ("observer", "print", "mb-print", "2.3"),
    ]
    ours = [
        *(("tcp", "mb-tcp"), ("ws", "mb-ws"), ("memory", "mb-broker")),
        *(("asyncio", "mb-core"), ("trio", "mb-core"), ("sync", "mb-sync")),
        ("json", "mb-core"),
    ]
    assert {*ours} <= found.keys()
    assert {(entry["state"], entry["error"]) for entry in found.values()} == {("ok", None)}


def test_a_plugin_that_fails_hides_no_other(environment: Environment) -> None:
    environment.install("fails", RAISES, transports=["fails"])
    environment.install("mb-acme", TRANSPORT, transports=["acme", "tcp"])
    found = listed(environment)
    states = {key: (entry["state"], entry["error"]) for key, entry in found.items()}
    state, error = states["fails", "fails"]
    assert state == "broken"
    assert error == (
        "fails:// needs the plugin fails, which can't be used: fails can't be imported: OSError: "
        "no such device"
    )
    conflict = "tcp:// is registered by mb-acme and mb-tcp: uninstall all but one"
    assert states["tcp", "mb-acme"] == states["tcp", "mb-tcp"] == ("conflict", conflict)
    assert states["acme", "mb-acme"] == ("ok", None)
    assert states["ws", "mb-ws"] == ("ok", None)


def test_ctrl_c_ends_it_while_a_plugin_hangs(environment: Environment) -> None:
    says_so = "import sys; print('hanging', file=sys.stderr, flush=True)\n"
    environment.install("hangs", says_so + HANGS, transports=["hangs"])
    with subprocess.Popen(
        [sys.executable, "-m", "mb_tools", "plugins"],
        env=environment.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "hanging\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "")


WITHOUT_TRIO = """
import sys
from importlib.machinery import PathFinder

class WithoutTrio(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "trio" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTrio
from mb_tools.cli import main
main(["plugins"])
"""


def test_without_trio_its_front_end_says_what_to_install(environment: Environment) -> None:
    done = environment.run("-c", WITHOUT_TRIO)
    assert (done.returncode, done.stderr) == (0, "")
    found = {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    assert found["trio"]["state"] == "broken"
    assert found["trio"]["error"] == (
        "the front end 'trio' needs the plugin mb-core, which can't be used: "
        "trio is not installed: pip install 'mb-core[trio]'"
    )
    assert found["asyncio"]["state"] == "ok"
