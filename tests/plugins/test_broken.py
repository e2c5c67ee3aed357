"""Installed plugins that fail: asking for one raises an error that names it, and nothing else is
affected.

Each is a real distribution beside those of this project, used by programs of their own.
"""

from __future__ import annotations

import pytest

from .distributions import TRANSPORT, Environment

RAISES = "raise OSError('no such device')"
EXITS = "import sys; sys.exit('not on this machine')"
HANGS = "import threading; threading.Event().wait()"
REGISTERS_ITSELF = """
import sys
import mb_core
from mb_core import hookimpl
@hookimpl
def mb_register_codecs():
    return []
mb_core.installed_plugins().register(sys.modules[__name__], "acme-too")
"""
GIVES_TWICE = TRANSPORT.replace("    ]", "    ] * 2")
MISSPELLED = TRANSPORT.replace("def mb_register_transports", "def mb_register_transport")
UNMARKED = TRANSPORT.replace("@hookimpl\n", "")
WRONG_SIGNATURE = TRANSPORT.replace("transports():", "transports(session):")
HOOK_RAISES = TRANSPORT.replace("    return", "    raise OSError('no such device')\n    return")
HOOK_EXITS = TRANSPORT.replace("    return", "    raise SystemExit('not here')\n    return")
GIVES_OTHERS = TRANSPORT.replace('"acme"', '"tcp"')

BROKEN = {
    "raises": (RAISES, "acme can't be imported: OSError: no such device"),
    "exits": (EXITS, "acme can't be imported: SystemExit: not on this machine"),
    "no syntax": ("def", "acme can't be imported: SyntaxError: invalid syntax"),
    "registers itself": (REGISTERS_ITSELF, "Plugin already registered"),
    "gives twice": (GIVES_TWICE, "it returned acme:// twice"),
    "wrong hook name": (
        MISSPELLED,
        "unknown hook 'mb_register_transport' in plugin <module 'acme'",
    ),
    "hook without a mark": (
        UNMARKED,
        "mb_register_transports is not marked with @mb_core.hookimpl",
    ),
    "wrong signature": (WRONG_SIGNATURE, "Argument(s) {'session'} are declared in the hookimpl"),
    "hook raises": (HOOK_RAISES, "no such device"),
    "hook exits": (HOOK_EXITS, "not here"),
    "gives what it has not promised": (GIVES_OTHERS, "it promises acme:// but registers tcp://"),
}

USES_ALL_BUT_THE_BROKEN = """
import sys
import anyio
from mb_client import Broker, MessageBrokerClient

async def main():
    async with Broker("tcp://127.0.0.1:0", "ws://127.0.0.1:0", "memory://") as broker:
        for url in broker.urls:
            async with MessageBrokerClient(url, codec="json") as client:
                await client.subscribe("echo", action="request", handler=lambda m: m.payload)
                print((await client.request("echo", url.split(":")[0])).payload)

anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
assert "acme" not in sys.modules
"""

ASKS_FOR_THE_BROKEN = """
import anyio, mb_core
from mb_client import Broker, MessageBrokerClient

async def main():
    for _ in range(2):
        try:
            await MessageBrokerClient("acme://127.0.0.1").connect()
        except mb_core.PluginError as error:
            print(error)
    try:
        async with Broker("acme://127.0.0.1:0"):
            print("it listens")
    except mb_core.PluginError as error:
        print(error)
    async with Broker() as broker, MessageBrokerClient(broker.url) as client:
        print(client.connected)

anyio.run(main)
"""


@pytest.mark.parametrize(("source", "why"), BROKEN.values(), ids=BROKEN)
def test_who_does_not_use_a_broken_plugin_is_not_harmed_and_who_does_is_told(
    source: str, why: str, environment: Environment
) -> None:
    environment.install("acme", source, transports=["acme"], codecs=["acme"], frontends=["acme"])
    done = environment.python(USES_ALL_BUT_THE_BROKEN)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "tcp\nws\nmemory\n")

    done = environment.python(ASKS_FOR_THE_BROKEN)
    assert (done.returncode, done.stderr) == (0, "")
    *errors, connected = done.stdout.splitlines()
    assert (len(errors), connected) == (3, "True")
    for error in errors:
        assert error.startswith("acme:// needs the plugin acme, which can't be used: ")
        assert why in error


def test_a_plugin_that_hangs_on_import_harms_only_those_who_ask_for_it(
    environment: Environment,
) -> None:
    environment.install("acme", HANGS, transports=["acme"], codecs=["acme"], frontends=["acme"])
    done = environment.python(USES_ALL_BUT_THE_BROKEN)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "tcp\nws\nmemory\n")
    done = environment.mb("demo", "--requests", "1", "--events", "1")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_mb_names_a_broken_plugin(environment: Environment) -> None:
    environment.install("acme", RAISES, transports=["acme"])
    done = environment.mb("request", "topic", "1", "--url", "acme://localhost")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "mb request: acme:// needs the plugin acme, which can't be used: acme can't be imported: "
        "OSError: no such device\n"
    )


def test_a_scheme_of_two_distributions_is_refused_and_names_both(environment: Environment) -> None:
    environment.install("acme", TRANSPORT, transports=["acme", "tcp"])
    environment.install("other", TRANSPORT, transports=["acme"])
    done = environment.python("""
import mb_core
for scheme in ("acme", "tcp", "ws"):
    try:
        print(mb_core.installed_plugins().transport(scheme).scheme)
    except mb_core.PluginError as error:
        print(error)
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "acme:// is registered by acme and other: uninstall all but one",
        "tcp:// is registered by acme and mb-tcp: uninstall all but one",
        "ws",
    ]


# Observers are used by everybody


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (RAISES, "acme can't be imported: OSError: no such device"),
        (EXITS, "acme can't be imported: SystemExit: not on this machine"),
        ("", "it implements none of mb_connected, mb_disconnected, mb_reconnecting, "),
    ],
    ids=["raises", "exits", "nothing"],
)
def test_a_broken_observer_is_told_of_once_in_the_log_and_stops_no_client(
    source: str, why: str, backend: str, environment: Environment
) -> None:
    environment.install("acme", source, observers=["acme"])
    program = f"""
import logging
import sys
logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
sys.argv.append({backend!r})
""" + USES_ALL_BUT_THE_BROKEN.replace('assert "acme" not in sys.modules\n', "")
    done = environment.python(program)
    assert (done.returncode, done.stdout) == (0, "tcp\nws\nmemory\n")
    assert done.stderr.count("mb_core.plugins") == 1
    expected = f"ERROR mb_core.plugins: the plugin acme can't be used: {why}"
    assert done.stderr.startswith(expected)
