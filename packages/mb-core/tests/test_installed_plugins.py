"""Plugins that are found through entry points; tests/plugins has real ones."""

from __future__ import annotations

import errno
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import pytest

from mb_core import InstalledPlugin
from mb_core.errors import ConnectError, PluginError
from mb_core.plugins import Plugins, installed_plugins, registry
from mb_core.transport import WireTransport

from .registering import (
    Carrier,
    Distribution,
    EntryPoint,
    Install,
    Module,
    Plain,
    entry_point,
    failing,
    giving,
    install,
    wrong_name,
    wrong_signature,
)

__all__ = ["install"]


def test_installed_plugins_go_by_the_name_of_their_distribution(install: Install) -> None:
    install(
        entry_point("acme", "x", giving([Carrier("x")])),
        entry_point("b", "x", giving([Carrier("x")])),
    )
    with pytest.raises(PluginError, match="x:// is registered by acme and b: uninstall"):
        installed_plugins().transport("x")


def test_an_entry_point_without_a_distribution_goes_by_its_own_name(install: Install) -> None:
    install(EntryPoint("lonely", None, lambda: giving(failing)))
    with pytest.raises(PluginError, match="the plugin lonely, which can't be used: no carrier"):
        installed_plugins().transport("lonely")
    assert list(installed_plugins().failures) == ["lonely"]


def test_entry_points_are_read_once(install: Install) -> None:
    read = install(entry_point("acme", "carrier", giving([Carrier()])))
    assert installed_plugins() is installed_plugins()
    installed_plugins().transport("carrier")
    assert read == ["read"]


def test_a_plugin_is_imported_when_something_of_it_is_asked_for_and_once() -> None:
    loaded: list[str] = []

    def loading(name: str) -> Any:
        plugin = Module(
            mb_register_transports=lambda: [Carrier(name)], mb_register_codecs=lambda: [Plain(name)]
        )
        return lambda: loaded.append(name) or plugin  # type: ignore[func-returns-value]

    plugins = Plugins(
        EntryPoint(name, Distribution(name), loading(name), group)  # type: ignore[misc]
        for name in ("a", "b")
        for group in ("mb.transports", "mb.codecs")
    )
    assert plugins.schemes() == ["a", "b"]
    assert plugins.installed[0] == InstalledPlugin("transport", "a", "a", "1.0")
    assert loaded == []
    for _ in range(2):
        assert plugins.transport("b") is plugins.transport("b")
        assert plugins.codec("b").name == "b"
    assert loaded == ["b"]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (ImportError("libx.so"), "acme can't be imported: ImportError: libx.so"),
        (AttributeError("no plugin"), "acme can't be imported: AttributeError: no plugin"),
        (SystemExit("not here"), "acme can't be imported: SystemExit: not here"),
        (giving(failing), "no carrier"),
        (giving("junk"), "mb_register_transports returned 'junk', not a list of transports"),
        (giving([]), "it promises carrier:// but registers none"),
        (giving([Carrier("x")]), "it promises carrier:// but registers x://"),
        (Module(), "it promises carrier:// but registers none"),
        (wrong_name(), "unknown hook 'mb_register_transport'"),
        (wrong_signature(), "session"),
    ],
)
def test_a_broken_package_is_named_to_who_asks_for_it_and_to_nobody_else(
    broken: object, why: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(
        entry_point("before", "before", giving([Carrier("before")])),
        entry_point("acme", "carrier", broken),
        entry_point("behind", "behind", giving([Carrier("behind")])),
    )
    plugins = installed_plugins()
    expected = f"(?s)carrier:// needs the plugin acme, which can't be used: .*{re.escape(why)}"
    for _ in range(2):
        with pytest.raises(PluginError, match=expected):
            plugins.transport("carrier")
    assert list(plugins.failures) == ["acme"]
    for scheme in ("before", "behind"):
        assert plugins.transport(scheme).scheme == scheme
    assert caplog.records == []


def test_an_import_that_failed_is_not_tried_again() -> None:
    tries = []

    def load() -> object:
        tries.append(1)
        raise ImportError("libx.so")

    entry: Any = EntryPoint("carrier", Distribution("acme"), load)
    plugins = Plugins([entry])
    for _ in range(2):
        with pytest.raises(PluginError, match=r"ImportError: libx\.so"):
            plugins.transport("carrier")
    assert len(tries) == 1


def test_ctrl_c_during_an_import_is_the_users_and_the_next_try_imports_again() -> None:
    outcomes: list[Any] = [KeyboardInterrupt, giving([Carrier()])]

    def load() -> object:
        outcome = outcomes.pop(0)
        if outcome is KeyboardInterrupt:
            raise KeyboardInterrupt
        return outcome

    entry: Any = EntryPoint("carrier", Distribution("acme"), load)
    plugins = Plugins([entry])
    with pytest.raises(KeyboardInterrupt):
        plugins.transport("carrier")
    assert plugins.transport("carrier").scheme == "carrier"


def test_an_import_that_the_system_refused_is_tried_again() -> None:
    outcomes: list[Any] = [OSError(errno.EMFILE, "Too many open files"), giving([Carrier()])]

    def load() -> object:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    entry: Any = EntryPoint("carrier", Distribution("acme"), load)
    plugins = Plugins([entry])
    with pytest.raises(PluginError, match="Too many open files"):
        plugins.transport("carrier")
    assert plugins.transport("carrier").scheme == "carrier"


def test_who_waits_for_a_plugin_keeps_nobody_else_waiting() -> None:
    go_on, asked = threading.Event(), threading.Event()

    def load() -> object:
        asked.set()
        go_on.wait(30)
        return giving([Carrier("slow")])

    entries: list[Any] = [
        EntryPoint("slow", Distribution("acme"), load),
        entry_point("quick", "quick", giving([Carrier("quick")])),
    ]
    plugins = Plugins(entries)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(plugins.transport("slow")))
    waiting.start()
    asked.wait()
    assert plugins.transport("quick").scheme == "quick"
    assert found == []
    go_on.set()
    waiting.join()
    assert found == [plugins.transport("slow")]


def test_who_asks_at_the_same_time_gets_the_same() -> None:
    both = threading.Barrier(2, timeout=30)

    def make() -> list[Carrier]:
        both.wait()
        return [Carrier()]

    plugins = Plugins([entry_point("acme", "carrier", giving(make))])
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(plugins.transport("carrier")))
    other.start()
    found.append(plugins.transport("carrier"))
    other.join()
    assert found == [plugins.transport("carrier")] * 2


def test_a_distribution_that_promises_a_scheme_twice_is_named() -> None:
    entries = [entry_point("acme", "x", giving([Carrier("x")])) for _ in range(2)]
    entries[1].value = "other"
    with pytest.raises(PluginError, match="x:// is registered 2 times by acme"):
        Plugins(entries).transport("x")


def test_a_plugin_may_ask_for_others_while_it_is_imported() -> None:
    def load() -> object:
        return giving([plugins.transport("a").__class__("b")])

    entries: list[Any] = [
        entry_point("a", "a", giving([Carrier("a")])),
        EntryPoint("b", Distribution("b"), load),
    ]
    plugins = Plugins(entries)
    assert plugins.transport("b").scheme == "b"


def test_there_is_one_registry_however_many_threads_ask_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    barrier = threading.Barrier(4, timeout=10)
    found = [entry_point("acme", "carrier", giving(lambda: [Carrier()]))]

    def entries() -> list[Any]:
        barrier.wait()  # all of them have seen that there is no registry yet
        return found

    def ask() -> tuple[Plugins, object]:
        plugins = installed_plugins()
        barrier.wait()
        return plugins, plugins.transport("carrier")

    monkeypatch.setattr(registry, "read_entry_points", entries)
    monkeypatch.setattr(registry, "_found", {})
    with ThreadPoolExecutor(4) as pool:
        asked = [task.result() for task in [pool.submit(ask) for _ in range(4)]]
    assert len({id(plugins) for plugins, _ in asked}) == 1
    assert len({id(transport) for _, transport in asked}) == 1


def test_entry_points_that_can_not_be_read_are_a_connect_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that reconnects tries again: files that are used up now may be free later."""

    def refused() -> Any:
        raise OSError(errno.EMFILE, "Too many open files", "/site-packages/METADATA")

    monkeypatch.setattr(metadata, "entry_points", refused)
    monkeypatch.setattr(registry, "_found", {})
    with pytest.raises(ConnectError) as caught:
        installed_plugins()
    assert str(caught.value) == (
        "can't read the installed plugins: Too many open files (raise the limit: ulimit -n)"
    )
    assert not caught.value.final


def test_a_distribution_whose_name_can_not_be_read_is_a_connect_error() -> None:
    class Unreadable:
        @property
        def name(self) -> str:
            raise OSError(errno.EMFILE, "Too many open files", "/site-packages/METADATA")

    entry: Any = EntryPoint("x", Unreadable(), lambda: giving([Carrier("x")]))  # type: ignore[arg-type]
    plugins = Plugins([entry])
    with pytest.raises(ConnectError, match=r"can't read the installed plugins: Too many open"):
        plugins.transport("x")


def test_without_plugins_nothing_is_spoken(install: Install) -> None:
    install()
    assert installed_plugins().schemes() == []


def test_our_transports_are_found_by_their_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_found", {})
    plugins = installed_plugins()
    ours = {
        (plugin.name, plugin.distribution)
        for plugin in plugins.installed
        if plugin.kind == "transport"
    }
    assert {
        *(("tcp", "mb-tcp"), ("tls", "mb-tcp"), ("ws", "mb-ws"), ("wss", "mb-ws")),
        ("memory", "mb-broker"),
    } <= ours
    assert plugins.transport("memory").scheme == "memory"
    for scheme in ("tcp", "tls", "ws", "wss"):
        transport = plugins.transport(scheme)
        assert isinstance(transport, WireTransport)
        assert transport.secure is (scheme in ("tls", "wss"))
    ports = {"ws": 8080, "wss": 8443, "tcp": 8081, "tls": 8444}
    assert {each: plugins.transport(each).default_port for each in ports} == ports
