"""Plugins: what they register, and that a broken one is nobody's problem but its own."""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from mb_core import Frontend, InstalledPlugin, hookimpl
from mb_core.errors import ConnectError, PluginError
from mb_core.plugins import Plugins, describe, installed_plugins, registry
from mb_core.transport import LinkTransport, WireTransport


def no_wire(*args: Any) -> Any:
    raise AssertionError("no connection is made here")


def wire_transport(scheme: Any) -> WireTransport:
    return WireTransport(scheme, no_wire, no_wire, default_port=1)


class Carrier:
    """A LinkTransport."""

    def __init__(self, scheme: Any = "carrier") -> None:
        self.scheme = scheme

    async def connect(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("no connection is made here")

    listen = connect


class Module:
    """A plugin, as if it were a module: its attributes are functions."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            setattr(self, name, hookimpl(function))


def giving(given: Any) -> Module:
    """A plugin whose hook returns `given`, or what calling it gives."""
    return Module(mb_register_transports=lambda: given() if callable(given) else given)


def failing() -> Any:
    raise RuntimeError("no carrier")


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
        PluginError, match="mb-ws, which is installed and can't be used: no carrier"
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


def wrong_signature() -> object:
    return Module(mb_register_transports=lambda session: [Carrier()])


def wrong_name() -> object:
    return Module(mb_register_transport=lambda: [Carrier()])


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
    "None": (giving(None), "gave None, not a list of transports"),
    "a string": (giving("tcp"), "gave 'tcp', not a list of transports"),
    "a number": (giving(5), "not a list of transports"),
    "one transport, not a list": (giving(wire_transport("x")), "not a list of transports"),
    "objects": (giving([object()]), "gave <object .*, which is not a transport"),
    "None in a list": (giving([None]), "gave None, which is not a transport"),
    "a class": (giving([WireTransport]), "which is not a transport"),
    "half a transport": (giving([Half()]), "which is not a transport"),
    "one that is right and one that is not": (giving([Carrier(), object()]), "is not a transport"),
    "no scheme": (giving([Carrier(None)]), "None is not a URL scheme"),
    "empty scheme": (giving([Carrier("")]), "'' is not a URL scheme"),
    "scheme in upper case": (giving([Carrier("WS")]), "'WS' is not a URL scheme"),
    "scheme with its colon": (giving([Carrier("x://")]), "'x://' is not a URL scheme"),
    "scheme that no URL can have": (giving([Carrier("a_b")]), "'a_b' is not a URL scheme"),
    "wire with a bad scheme": (giving([wire_transport(5)]), "5 is not a URL scheme"),
    "a scheme twice": (giving([Carrier("x"), wire_transport("x")]), "gives x:// twice"),
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
        with pytest.raises(PluginError, match="named acme is registered already"):
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


# Those that are installed; test_distributions.py has real ones


@dataclass
class Distribution:
    name: str
    version: str = "1.0"


@dataclass
class EntryPoint:
    """What installed_plugins uses of an importlib.metadata.EntryPoint."""

    name: str
    dist: Distribution | None
    load: Callable[[], object]
    group: str = "mb.transports"
    value: str = "module"


def entry_point(package: str, name: str, plugin: object, group: str = "mb.transports") -> Any:
    """An entry point of a package; loading it gives `plugin`, or raises it."""

    def load() -> object:
        if isinstance(plugin, BaseException):
            raise plugin
        return plugin

    return EntryPoint(name, Distribution(package), load, group, package.replace("-", "_"))


Install = Callable[..., list[str]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make these entry points the installed ones; gives a list of the times they were read."""
    read: list[str] = []

    def replace(*entry_points: EntryPoint) -> list[str]:
        def entries() -> tuple[EntryPoint, ...]:
            read.append("read")
            return entry_points

        monkeypatch.setattr(registry, "_entry_points", entries)
        return read

    monkeypatch.setattr(registry, "_found", {})
    return replace


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
        (giving("junk"), "mb_register_transports gave 'junk', not a list of transports"),
        (giving([]), "it promises carrier:// and gives nothing of the kind"),
        (giving([Carrier("x")]), "it promises carrier:// and gives x://"),
        (Module(), "it promises carrier:// and gives nothing of the kind"),
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

    monkeypatch.setattr(registry, "_entry_points", entries)
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

    monkeypatch.setattr(registry, "_entry_points", refused)
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


# Codecs, front ends, observers


class Plain:
    """A codec."""

    def __init__(self, name: Any = "plain") -> None:
        self.name = name

    def encode(self, payload: Any) -> bytes:
        return str(payload).encode()

    def decode(self, data: bytes, kind: Any) -> Any:
        return data.decode()


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
        ("mb_register_codecs", [Plain(), Plain()], "it gives the codec 'plain' twice"),
        ("mb_register_codecs", "plain", "mb_register_codecs gave 'plain', not a list of codecs"),
        ("mb_register_frontends", [object()], "is not a Frontend"),
        ("mb_register_frontends", [Frontend("", print)], "'' is not a name for a front end"),
        ("mb_register_frontends", None, "mb_register_frontends gave None, not a list of front"),
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

    with pytest.raises(PluginError, match=r"mb_disconnected takes arguments behind a \*: take the"):
        Plugins().register(ByKeyword(), "acme")
    with pytest.raises(PluginError, match="Wrapper is a class: a plugin is an instance of it"):
        Plugins().register(Wrapper, "acme")
    with pytest.raises(PluginError, match="mb_disconnected is not marked with @mb_core"):
        Plugins().register(Unmarked(), "acme")
    with pytest.raises(PluginError, match="mb_disconnected is a wrapper: here it has nothing to"):
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
