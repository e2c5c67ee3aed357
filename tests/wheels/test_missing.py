"""What is not installed is named by the error that its absence causes, with the command to run."""

from __future__ import annotations

import pytest

from .conftest import Install

pytestmark = pytest.mark.wheels


@pytest.mark.parametrize(
    ("installed", "url", "package"),
    [
        ("mb-core", "tcp://localhost", "mb-tcp"),
        ("mb-core", "tls://localhost", "mb-tcp"),
        ("mb-core", "ws://localhost", "mb-ws"),
        ("mb-core", "wss://localhost", "mb-ws"),
        ("mb-core", "memory://here", "mb-broker"),
        ("mb-tcp", "ws://localhost", "mb-ws"),
        ("mb-ws", "tcp://localhost", "mb-tcp"),
    ],
)
def test_a_client_without_the_transport(
    installed: str, url: str, package: str, environment_of: Install
) -> None:
    scheme = url.partition(":")[0]
    assert environment_of(installed).run("refused.py", "connect", url) == (
        f"PluginError: {scheme}:// needs the package {package}: pip install {package}\n"
    )


def test_a_broker_without_the_transport(environment_of: Install) -> None:
    both = environment_of("mb-broker", "mb-tcp")
    assert both.run("refused.py", "listen", "ws://127.0.0.1:0") == (
        "PluginError: ws:// needs the package mb-ws: pip install mb-ws\n"
    )
    assert both.run("refused.py", "connect", "ws://localhost") == (
        "PluginError: ws:// needs the package mb-ws: pip install mb-ws\n"
    )


def test_a_scheme_that_is_nobody_s(environment_of: Install) -> None:
    assert environment_of("mb-tcp").run("refused.py", "connect", "unix://socket") == (
        "PluginError: no installed plugin speaks unix:// (installed: tcp://, tls://)\n"
    )


def test_the_blocking_front_end(environment_of: Install) -> None:
    assert environment_of("mb-tcp").run("refused.py", "connect", "tcp://localhost", "sync") == (
        "PluginError: the front end 'sync' needs the package mb-sync: pip install mb-sync\n"
    )


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["top"], "pip install 'mb-tools[top]'"),
        (["demo", "--backend", "trio"], "pip install 'mb-core[trio]'"),
    ],
)
def test_what_the_command_can_do_only_with_more(
    arguments: list[str], remedy: str, environment_of: Install
) -> None:
    done = environment_of("mb-tools").call("mb", *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("mb ")
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
