"""Plugins that are registered by hand: what they register, and broken ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mb_core import hookimpl
from mb_core.errors import PluginError
from mb_core.plugins import Plugins
from mb_core.transport import LinkTransport, WireTransport

from .registering import Carrier, Module, failing, giving, install, wrong_name, wrong_signature

__all__ = ["install"]


def no_wire(*args: Any) -> Any:
    raise AssertionError("no connection is made here")


def wire_transport(scheme: Any) -> WireTransport:
    return WireTransport(scheme, no_wire, no_wire, default_port=1)


# What plugins register


def test_a_transport_is_found_by_its_scheme() -> None:
    plugins = Plugins()
    wire, link = wire_transport("x-wire"), Carrier()
    plugins.register(giving([wire, link]), "carriers")
    assert plugins.transport("x-wire") is wire
    assert plugins.transport("carrier") is link
    assert plugins.schemes() == ["carrier", "x-wire"]
    assert plugins.failures == {}


def test_a_plugin_may_be_a_class_instance() -> None:
    class Plugin:
        @hookimpl
        def mb_register_transports(self) -> Iterator[LinkTransport]:
            yield Carrier("a")
            yield Carrier("b")

    plugins = Plugins()
    plugins.register(Plugin(), "carriers")
    assert plugins.schemes() == ["a", "b"]


@pytest.mark.parametrize("plugin", [Module(), giving([]), giving(())])
def test_a_plugin_need_not_have_a_transport(plugin: object) -> None:
    plugins = Plugins()
    plugins.register(plugin, "observer")
    assert plugins.schemes() == []
    assert plugins.failures == {}


def test_each_plugin_is_asked_once() -> None:
    asked = []

    def ask(name: str) -> Callable[[], list[Carrier]]:
        return lambda: asked.append(name) or [Carrier(name)]  # type: ignore[func-returns-value]

    plugins = Plugins()
    for name in ("a", "b", "c"):
        plugins.register(giving(ask(name)), name)
    plugins.transport("a")
    assert asked == ["a", "b", "c"]


def test_sets_of_plugins_share_nothing() -> None:
    plugins = Plugins()
    plugins.register(giving([Carrier()]), "carriers")
    assert Plugins().schemes() == []


# Schemes without a transport, or with two


@pytest.mark.parametrize(
    ("scheme", "package"),
    [
        ("tcp", "mb-tcp"),
        ("tls", "mb-tcp"),
        ("ws", "mb-ws"),
        ("wss", "mb-ws"),
        ("memory", "mb-broker"),
    ],
)
def test_a_known_scheme_names_the_package_to_install(scheme: str, package: str) -> None:
    with pytest.raises(
        PluginError, match=f"{scheme}:// needs .* {package}: pip install {package}$"
    ):
        Plugins().transport(scheme)


def test_a_known_scheme_whose_package_is_broken_says_why() -> None:
    plugins = Plugins()
    with pytest.raises(PluginError):
        plugins.register(giving(failing), "mb-ws")
    with pytest.raises(
        PluginError, match="mb-ws, which is installed but can't be used: no carrier"
    ):
        plugins.transport("wss")
    with pytest.raises(PluginError, match="pip install mb-tcp"):
        plugins.transport("tcp")


def test_an_unknown_scheme_lists_those_that_are_spoken() -> None:
    plugins = Plugins()
    with pytest.raises(PluginError, match=r"no installed plugin speaks xyz:// \(installed: none\)"):
        plugins.transport("xyz")
    plugins.register(giving([Carrier("b"), Carrier("a")]), "carriers")
    with pytest.raises(PluginError, match=r"speaks xyz:// \(installed: a://, b://\)"):
        plugins.transport("xyz")


@pytest.mark.parametrize(("scheme", "instead"), [("http", "ws"), ("https", "wss")])
def test_the_scheme_of_the_brokers_page_names_the_one_for_clients(
    scheme: str, instead: str
) -> None:
    expected = rf"speaks {scheme}:// \(use {instead}:// instead; installed: none\)$"
    with pytest.raises(PluginError, match=expected):
        Plugins().transport(scheme)


def test_an_unknown_scheme_names_the_plugins_that_are_broken() -> None:
    plugins = Plugins()
    plugins.register(giving([Carrier()]), "carriers")
    with pytest.raises(PluginError):
        plugins.register(giving(failing), "acme")
    expected = r"\(installed: carrier://; acme can't be used: no carrier\)"
    with pytest.raises(PluginError, match=f"speaks xyz:// {expected}"):
        plugins.transport("xyz")


def test_a_scheme_that_two_plugins_give_is_refused_and_names_both() -> None:
    plugins = Plugins()
    plugins.register(giving([Carrier("x"), Carrier("a")]), "first")
    plugins.register(giving([Carrier("x"), Carrier("b")]), "second")
    with pytest.raises(PluginError, match="x:// is registered by first and second: uninstall"):
        plugins.transport("x")
    # Only who asks for it is concerned.
    assert plugins.transport("a").scheme == "a"
    assert plugins.transport("b").scheme == "b"
    assert plugins.schemes() == ["a", "b", "x"]


# Plugins that are broken


def one_hook_too_many() -> object:
    return Module(mb_register_transports=lambda: [Carrier()], mb_unknown=lambda: None)


def gives_one_and_fails() -> Iterator[Carrier]:
    yield Carrier()
    failing()


@dataclass
class Half:
    """Looks like a transport, and can only connect."""

    scheme: str = "half"

    async def connect(self) -> None: ...


BROKEN: dict[str, tuple[Any, str]] = {
    "raises": (giving(failing), "no carrier"),
    "raises half way": (giving(gives_one_and_fails), "no carrier"),
    "wrong hook name": (wrong_name(), "unknown hook 'mb_register_transport'"),
    "one hook too many": (one_hook_too_many(), "unknown hook 'mb_unknown'"),
    "wrong signature": (wrong_signature(), "session"),
    "None": (giving(None), "returned None, not a list of transports"),
    "a string": (giving("tcp"), "returned 'tcp', not a list of transports"),
    "a number": (giving(5), "not a list of transports"),
    "one transport, not a list": (giving(wire_transport("x")), "not a list of transports"),
    "objects": (giving([object()]), "returned <object .*, which is not a transport"),
    "None in a list": (giving([None]), "returned None, which is not a transport"),
    "a class": (giving([WireTransport]), "which is not a transport"),
    "half a transport": (giving([Half()]), "which is not a transport"),
    "one that is right and one that is not": (giving([Carrier(), object()]), "is not a transport"),
    "no scheme": (giving([Carrier(None)]), "None is not a URL scheme"),
    "empty scheme": (giving([Carrier("")]), "'' is not a URL scheme"),
    "scheme in upper case": (giving([Carrier("WS")]), "'WS' is not a URL scheme"),
    "scheme with its colon": (giving([Carrier("x://")]), "'x://' is not a URL scheme"),
    "scheme that no URL can have": (giving([Carrier("a_b")]), "'a_b' is not a URL scheme"),
    "wire with a bad scheme": (giving([wire_transport(5)]), "5 is not a URL scheme"),
    "a scheme twice": (giving([Carrier("x"), wire_transport("x")]), "returned x:// twice"),
}


@pytest.mark.parametrize(("plugin", "fault"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_named_and_leaves_nothing(plugin: object, fault: str) -> None:
    plugins = Plugins()
    good, late = Carrier("good"), Carrier("late")
    plugins.register(giving([good]), "good")
    expected = f"(?s)the plugin acme can't be used: .*{fault}"
    with pytest.raises(PluginError, match=expected) as raised:
        plugins.register(plugin, "acme")
    assert plugins.failures == {"acme": raised.value.__cause__}
    # Those before it and those behind it work.
    plugins.register(giving([late]), "late")
    assert plugins.schemes() == ["good", "late"]
    assert plugins.transport("good") is good
    assert plugins.transport("late") is late


def test_a_broken_plugin_may_be_replaced() -> None:
    plugins = Plugins()
    with pytest.raises(PluginError):
        plugins.register(giving(failing), "acme")
    plugins.register(giving([Carrier()]), "acme")
    assert plugins.transport("carrier").scheme == "carrier"


def test_a_second_plugin_of_one_name_does_not_end_the_first() -> None:
    plugins = Plugins()
    first = Carrier("first")
    plugins.register(giving([first]), "acme")
    for _ in range(2):
        with pytest.raises(PluginError, match="named acme is already registered"):
            plugins.register(giving([Carrier("second")]), "acme")
    assert plugins.schemes() == ["first"]
    assert plugins.transport("first") is first
    assert plugins.failures == {}


def test_one_plugin_under_two_names_is_refused() -> None:
    plugins = Plugins()
    plugin = giving([Carrier()])
    plugins.register(plugin, "acme")
    with pytest.raises(PluginError, match="the plugin again can't be used"):
        plugins.register(plugin, "again")
    assert plugins.transport("carrier").scheme == "carrier"


def test_a_plugin_that_has_no_hash_is_as_good_as_any() -> None:
    @dataclass
    class Plugin:
        scheme: str

        @hookimpl
        def mb_register_transports(self) -> list[LinkTransport]:
            return [Carrier(self.scheme)]

    plugins = Plugins()
    for scheme in ("a", "b", "c"):
        plugins.register(Plugin(scheme), scheme)
    assert plugins.schemes() == ["a", "b", "c"]
