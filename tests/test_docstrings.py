"""The docstrings of public names, which the API reference is made of."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import anyio
import pytest

import mb_broker
import mb_client
import mb_core
import mb_sync
import mb_testing
import mb_testing.proxy
from mb_broker.options import option_table
from mb_core import hookimpl
from mb_core.authenticators import Credentials

PACKAGES = (mb_client, mb_core, mb_sync, mb_broker, mb_testing, mb_testing.proxy)
MODULES = ("mb_core.link", "mb_core.plugins", "mb_core.session", "mb_core.wire", "mb_core.url")
EXAMPLE = re.compile(r"^Example::\n\n((?:    .*\n|\n)+)", re.MULTILINE)
ARGUMENT = re.compile(r"^    \**(\w+): ", re.MULTILINE)


def owned(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("mb_")


def public() -> Iterator[tuple[str, ModuleType, Any]]:
    """Each public function, class, method and property, with its package."""
    packages = [*PACKAGES, *map(importlib.import_module, MODULES)]
    for package in packages:
        for name in package.__all__:
            value = getattr(package, name)
            if not owned(value) or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            title = f"{package.__name__}.{name}"
            yield title, package, value
            if inspect.isclass(value):
                for each in filter(owned, value.__mro__):
                    for member, found in vars(each).items():
                        function = found.__func__ if isinstance(found, classmethod) else found
                        if not member.startswith(("_", "test_")) and (
                            inspect.isfunction(function) or isinstance(function, property)
                        ):
                            yield f"{title}.{member}", package, function


PUBLIC = {title: (package, value) for title, package, value in public()}
# One for each docstring, though mb_client exports what mb_core does.
BY_TEXT = {inspect.getdoc(value): title for title, (_, value) in reversed(PUBLIC.items())}


def examples() -> Iterator[Any]:
    for text, title in BY_TEXT.items():
        for number, block in enumerate(EXAMPLE.findall((text or "") + "\n"), 1):
            yield pytest.param(title, textwrap.dedent(block), id=f"{title}:{number}")


def test_every_public_name_has_a_docstring() -> None:
    missing = [title for title, (_, value) in PUBLIC.items() if not inspect.getdoc(value)]
    assert missing == []


@pytest.mark.parametrize("title", list(BY_TEXT.values()))
def test_the_arguments_of_a_docstring_exist(title: str) -> None:
    value = PUBLIC[title][1]
    doc = inspect.getdoc(value) or ""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", doc, re.MULTILINE)
    if section is not None:
        named = ARGUMENT.findall(section[1])
        assert named
        assert set(named) <= set(inspect.signature(value).parameters)


def test_the_options_of_a_broker_are_documented_with_their_defaults() -> None:
    doc = inspect.getdoc(mb_broker.BrokerOptions) or ""
    documented = {
        name: " ".join(text.split()).rpartition("Default: ")[2].rstrip(".")
        for name, text in re.findall(r"^    (\w+): ((?:.|\n     )+)", doc, re.MULTILINE)
    }
    sizes = {"16 MiB": 16 * 1024**2, "256 MiB": 256 * 1024**2}
    shown = {**sizes, "True": True, "none": [], "None": None}
    assert {
        name: shown.get(
            text, int(text.replace(",", "")) if text[0].isdigit() and "B" not in text else text
        )
        for name, text in documented.items()
    } == {option.name: option.default for option in option_table()}


class Observing:
    @hookimpl
    def mb_message_received(self) -> None:
        pass


async def idle() -> None:
    await anyio.sleep(60)


class Sample:
    """The names that an example uses: those of its package, and what a program has by then."""

    def __init__(self, package: ModuleType, broker: Any) -> None:
        self.package = package
        self.broker = broker
        self.printed: list[tuple[Any, ...]] = []
        self.close: Callable[[], object] | None = None
        self.names: dict[str, Any] = {
            **{name: getattr(mb_client, name) for name in mb_client.__all__},
            **{name: getattr(package, name) for name in package.__all__},
            "Credentials": Credentials,
            "GUESTS": object(),
            "UNIX": object(),
            "broker": broker,
            "dataclass": __import__("dataclasses").dataclass,
            "faults": mb_testing.Faults(),
            "importlib": __import__("importlib.metadata"),
            "main": idle,
            "mb_broker": mb_broker,
            "mb_testing": mb_testing,
            "my_plugin": Observing(),
            "print": self.print,
        }

    def print(self, *args: Any) -> None:
        self.printed.append(args)
        if self.close is not None:  # what ends a loop over the events of a subscription
            self.close()


def uses(code: Any, name: str) -> bool:
    inner = [each for each in code.co_consts if hasattr(each, "co_names")]
    return name in code.co_names or any(uses(each, name) for each in inner)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("title", "text"), list(examples()))
def test_an_example_runs(title: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, _ = PUBLIC[title]
    with mb_testing.running("tcp://127.0.0.1:0", "ws://127.0.0.1:0") as broker:
        ports = [broker.url_of(scheme).rpartition(":")[2] for scheme in ("ws", "tcp")]
        rules = [
            f"localhost:{n}=127.0.0.1:{port}" for n, port in zip((8080, 8081), ports, strict=True)
        ]
        monkeypatch.setenv("MB_CONNECT_TO", ",".join(rules))
        sample = Sample(package, broker)
        with mb_sync.MessageBrokerClient(broker.url) as service:
            answer = {"city": "Oslo", "degrees": 3}
            service.subscribe("weather.current", action="request", handler=lambda message: answer)
            service.subscribe("order.paid", handler=lambda message: None)
            with publishing(service, "for event in events" in text):
                run_example(text, sample)
    assert sample.printed or not re.search(r"\bprint\(", text)


@contextlib.contextmanager
def publishing(service: mb_sync.MessageBrokerClient, wanted: bool) -> Iterator[None]:
    """Publish events during the block, for examples that wait for some."""
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.01):
            service.publish("order.paid", {"id": 7})

    thread = threading.Thread(target=publish)
    if wanted:
        thread.start()
    yield
    done.set()
    if wanted:
        thread.join()


def run_example(text: str, sample: Sample) -> None:
    """Run the body of an example as that of a function, with a client if it uses one."""
    needs_client = "client." in text and not re.search(r"as client\b|\bclient = ", text)
    blocking = sample.package is mb_sync
    is_async = bool(re.search(r"\b(await|async)\b", text)) or (needs_client and not blocking)
    function = f"{'async ' * is_async}def example():\n{textwrap.indent(text, '    ')}"
    exec(compile(function, "example", "exec"), sample.names)
    if is_async:
        anyio.run(run_async, sample, needs_client)
    elif needs_client:
        with mb_sync.MessageBrokerClient(sample.broker.url) as client:
            sample.names["client"] = client
            sample.close = client.close if "for event in events" in text else None
            sample.names["example"]()
    else:
        sample.names["example"]()


async def run_async(sample: Sample, needs_client: bool) -> None:
    with anyio.fail_after(30):
        if not needs_client:
            await sample.names["example"]()
            return
        async with (
            anyio.create_task_group() as tasks,
            mb_client.MessageBrokerClient(sample.broker.url) as client,
        ):
            sample.names["client"] = client
            sample.close = lambda: tasks.start_soon(client.close)
            await sample.names["example"]()
