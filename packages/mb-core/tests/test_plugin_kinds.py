"""Codecs, front ends and observers, and the list of all plugins."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mb_core import Frontend, InstalledPlugin, hookimpl
from mb_core.errors import PluginError
from mb_core.plugins import Plugins, describe, installed_plugins

from .registering import Carrier, Install, Module, Plain, entry_point, giving, install

__all__ = ["install"]

# Codecs, front ends, observers


def test_a_codec_and_a_front_end_are_found_by_their_names() -> None:
    plugins = Plugins()
    codec, frontend = Plain(), Frontend("windows", lambda url, **options: None)
    plugins.register(
        Module(mb_register_codecs=lambda: [codec], mb_register_frontends=lambda: [frontend]), "acme"
    )
    assert plugins.codec("plain") is codec
    assert plugins.frontend("windows") is frontend
    assert plugins.installed == [
        InstalledPlugin("front end", "windows", "acme", ""),
        InstalledPlugin("codec", "plain", "acme", ""),
    ]


@pytest.mark.parametrize(
    ("hook", "given", "fault"),
    [
        ("mb_register_codecs", [object()], "is not a codec: it has no method encode"),
        ("mb_register_codecs", [Plain("")], "'' is not a name for a codec"),
        ("mb_register_codecs", [Plain(), Plain()], "it returned the codec 'plain' twice"),
        (
            "mb_register_codecs",
            "plain",
            "mb_register_codecs returned 'plain', not a list of codecs",
        ),
        ("mb_register_frontends", [object()], "is not a Frontend"),
        ("mb_register_frontends", [Frontend("", print)], "'' is not a name for a front end"),
        ("mb_register_frontends", None, "mb_register_frontends returned None, not a list of front"),
    ],
)
def test_what_is_no_codec_or_front_end_is_refused(hook: str, given: Any, fault: str) -> None:
    plugins = Plugins()
    with pytest.raises(PluginError, match=f"the plugin acme can't be used: .*{fault}"):
        plugins.register(Module(**{hook: lambda: given}), "acme")
    assert plugins.installed == []


def test_an_unknown_codec_or_front_end_says_what_there_is() -> None:
    with pytest.raises(PluginError, match=r"has the codec 'x' \(installed: the codec 'json'\)"):
        installed_plugins().codec("x")
    with pytest.raises(PluginError, match="front end 'sync' needs the package mb-sync: pip inst"):
        Plugins().frontend("sync")
    with pytest.raises(PluginError, match=r"no installed plugin has the front end 'x' \(installe"):
        Plugins().frontend("x")


async def a_coroutine_function() -> None: ...


@pytest.mark.parametrize(
    ("plugin", "fault"),
    [
        (
            Module(mb_disconnected=lambda reason: None),
            r"Argument\(s\) {'reason'} .*can not be found",
        ),
        (Module(mb_conected=lambda: None), "unknown hook 'mb_conected'"),
        (Module(mb_connected=a_coroutine_function), "mb_connected is a coroutine function"),
    ],
)
def test_an_observer_with_a_wrong_hook_is_refused(plugin: object, fault: str) -> None:
    with pytest.raises(PluginError, match=f"(?s)the plugin acme can't be used: .*{fault}"):
        Plugins().register(plugin, "acme")


def test_what_can_t_be_called_as_a_hook_is_refused() -> None:
    class Unmarked:
        def mb_disconnected(self) -> None: ...

    class Wrapper:
        @hookimpl(wrapper=True)
        def mb_disconnected(self) -> Iterator[None]:
            yield

    class ByKeyword:
        @hookimpl
        def mb_disconnected(self, *, client: object) -> None: ...

    with pytest.raises(PluginError, match=r"mb_disconnected has keyword-only arguments: remove"):
        Plugins().register(ByKeyword(), "acme")
    with pytest.raises(PluginError, match="Wrapper is a class: register an instance of it"):
        Plugins().register(Wrapper, "acme")
    with pytest.raises(PluginError, match="mb_disconnected is not marked with @mb_core"):
        Plugins().register(Unmarked(), "acme")
    with pytest.raises(
        PluginError, match="mb_disconnected is a hook wrapper, which is not supported"
    ):
        Plugins().register(Wrapper(), "acme")


def test_observers_are_those_that_have_a_hook_for_it() -> None:
    plugins = Plugins()
    called: list[Any] = []
    plugins.register(Module(mb_disconnected=lambda error, client: called.append(error)), "one")
    plugins.register(Module(mb_register_transports=lambda: [Carrier()]), "none")
    [observer] = plugins.observers()
    assert observer.name == "one"
    assert list(observer.hooks) == ["mb_disconnected"]
    observer.hooks["mb_disconnected"](client="client", error="error")
    assert called == ["error"]
    assert InstalledPlugin("observer", "one", "one", "") in plugins.installed


def test_observers_that_can_t_be_used_are_told_of_in_the_log_and_once(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    def entry(package: str, plugin: object) -> Any:
        return entry_point(package, package, plugin, "mb.observers")

    install(
        entry("fails", ImportError("libx.so")),
        entry("works", Module(mb_disconnected=lambda: None)),
        entry("sees-nothing", Module(mb_register_transports=lambda: [Carrier()])),
    )
    for _ in range(2):
        assert [found.name for found in installed_plugins().observers()] == ["works"]
    fails, sees_nothing = caplog.records
    assert (fails.levelno, sees_nothing.levelno) == (logging.ERROR, logging.ERROR)
    assert fails.getMessage() == (
        "the plugin fails can't be used: fails can't be imported: ImportError: libx.so"
    )
    assert fails.exc_info is not None
    assert isinstance(fails.exc_info[1], ImportError)
    assert sees_nothing.getMessage().startswith(
        "the plugin sees-nothing can't be used: it implements none of mb_connected, "
    )


# Looking at all


def test_all_are_described_and_none_hides_another() -> None:
    entries: list[Any] = [
        entry_point("good", "good", giving([Carrier("good")])),
        entry_point("fails", "fails", ImportError("libx.so")),
        entry_point("one", "x", giving([Carrier("x")])),
        entry_point("two", "x", giving([Carrier("x")])),
        entry_point("sees-nothing", "sees-nothing", Module(), "mb.observers"),
        entry_point("sees", "sees", Module(mb_disconnected=lambda: None), "mb.observers"),
    ]
    found = describe(Plugins(entries))
    expected = {
        "fails": ("broken", "fails can't be imported: ImportError: libx.so"),
        "good": ("ok", ""),
        "one": ("conflict", "x:// is registered by one and two: uninstall all but one"),
        "two": ("conflict", "x:// is registered by one and two: uninstall all but one"),
        "sees": ("ok", ""),
        "sees-nothing": ("broken", "it implements none of mb_connected, mb_disconnected, "),
    }
    assert [each.plugin.distribution for each in found] == [*expected]
    for each in found:
        state, error = expected[each.plugin.distribution]
        assert (each.state.value, each.error is None) == (state, state == "ok")
        assert error in (each.error or "")
