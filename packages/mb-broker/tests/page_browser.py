"""A browser that shows the page of a broker, and clients beside it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import mb_broker
from mb_core import Message, MessageBrokerClient


def http_of(url: str) -> str:
    return url.replace("ws://", "http://")


FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What the browser itself says of a broker that is not there.
NO_BROKER = re.compile(r"WebSocket connection to '[^']*' failed|ERR_CONNECTION_REFUSED")
LIMIT = 15.0  # seconds, for whatever the page is expected to show


class Browser:
    """A headless Chromium, and the pages that a test opens with it."""

    def __init__(self, chromium: Any) -> None:
        self.chromium = chromium
        self.faults: list[str] = []
        self.expected: re.Pattern[str] | None = None
        # What each WebSocket of its pages has sent, in the order in which they were opened.
        self.sent: list[list[str]] = []

    def open(
        self,
        url: str,
        *,
        edit: tuple[str, str, str] | None = None,
        status: str = "Connected to",
        **options: Any,
    ) -> Any:
        """The page at the broker's WebSocket URL, once it is connected, or shows another `status`.

        `edit` replaces a text in one of its files: the name of the file, the text, the new text.
        """
        context = self.chromium.new_context(
            **{"viewport": {"width": 1280, "height": 900}} | options
        )
        context.set_default_timeout(LIMIT * 1000)
        shown = context.new_page()
        shown.on("pageerror", lambda error: self.note(str(error)))
        shown.on("console", lambda said: self.note(f"{said.type}: {said.text}"))
        shown.on("websocket", self._watch)
        shown.add_init_script(
            "addEventListener('securitypolicyviolation', (event) =>"
            " console.error('violation of', event.violatedDirective))"
        )
        if edit is not None:
            file, old, new = edit

            def serve(route: Any) -> None:
                response = route.fetch()
                assert response.text().count(old) == 1
                route.fulfill(response=response, body=response.text().replace(old, new))

            shown.route(f"**/{file}", serve)
        shown.goto(http_of(url))
        self.wait_for(shown, "#status", status)
        return shown

    def _watch(self, socket: Any) -> None:
        sent: list[str] = []
        self.sent.append(sent)
        socket.on("framesent", lambda text: sent.append(str(text)))

    def note(self, fault: str) -> None:
        """Keep what a page complains of, unless it is `expected`."""
        if self.expected is None or not self.expected.search(fault):
            self.faults.append(fault)

    def wait_for(self, shown: Any, selector: str, text: str) -> Any:
        """The first element of that selector that has this text; waits for it."""
        found = shown.locator(selector).filter(has_text=text).first
        found.wait_for(state="visible")
        return found

    def close(self) -> None:
        for context in self.chromium.contexts:
            context.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; tests that need it are skipped where it or its driver is missing."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def browser(chromium: Any, new_bus: Callable[..., Bus]) -> Iterator[Browser]:
    """A Browser; what its pages complained of by the end of the test fails it.

    It is closed before the brokers of `new_bus`, so that no page tries to reach one that is gone.
    """
    browser = Browser(chromium)
    yield browser
    browser.close()
    assert browser.faults == []


SERVE = """
import sys, threading, mb_broker
with mb_broker.running(sys.argv[1], access=sys.argv[2] if sys.argv[2:] else None) as broker:
    print(broker.url, flush=True)
    threading.Event().wait()
"""


@contextmanager
def serving(url: str, *access: str) -> Iterator[str]:
    """A broker in a process of its own, which is killed at the end; gives its URL."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, url, *access], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class Bus:
    """A broker with clients in Python, for a test that has no event loop of its own."""

    def __init__(self, stack: ExitStack, portal: BlockingPortal, **options: Any) -> None:
        self._stack = stack
        self._portal = portal
        self.broker = stack.enter_context(
            mb_broker.running("tcp://127.0.0.1:0", "ws://127.0.0.1:0", **options)
        )
        self.url = self.broker.url_of("ws")
        self.heard: list[Message] = []

    def service(
        self, name: str, token: str | None = None, **handlers: Callable[[Message], Any]
    ) -> MessageBrokerClient:
        """A service over TCP that answers requests; `a_b` stands for the topic a.b."""
        client = MessageBrokerClient(self.broker.url_of("tcp"), token=token)
        self._stack.enter_context(self._portal.wrap_async_context_manager(client))
        self.call(client.register_service, name, f"{name}, in a test")
        for topic, handler in handlers.items():
            self._portal.call(answer, client, topic.replace("_", "."), handler)
        return client

    def listen(self, client: MessageBrokerClient, topic: str) -> None:
        """Collect what is published to `topic` in `heard`."""
        self._portal.call(hear, client, topic, self.heard.append)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._portal.call(function, *arguments)


async def answer(client: MessageBrokerClient, topic: str, handler: Callable[..., Any]) -> None:
    await client.subscribe(topic, action="request", handler=handler, concurrency=4)


async def hear(client: MessageBrokerClient, topic: str, handler: Callable[..., Any]) -> None:
    await client.subscribe(topic, handler=handler)


@pytest.fixture
def new_bus(chromium: Any) -> Iterator[Callable[..., Bus]]:
    """Start a Bus; options as for a Broker."""
    with start_blocking_portal() as portal, ExitStack() as stack:
        yield lambda **options: Bus(stack, portal, **options)


@pytest.fixture
def bus(new_bus: Callable[..., Bus]) -> Bus:
    return new_bus()


def until(fact: Callable[[], Any], shown: Any) -> Any:
    """Poll until something is the case; the page goes on meanwhile."""
    deadline = time.monotonic() + LIMIT
    while not (value := fact()):
        assert time.monotonic() < deadline, "it did not come about"
        shown.wait_for_timeout(20)
    return value


def send(shown: Any, action: str, topic: str, payload: str = "{}", timeout: int = 5000) -> None:
    """Fill the form in and send it."""
    shown.fill("#send-topic", topic)
    shown.fill("#send-payload", payload)
    shown.fill("#send-timeout", str(timeout))
    shown.click(f"#send button[value={action}]")


def entry(text: str) -> str:
    """The place of an exchange in the trace whose own line has this text."""
    return f"#trace li:has(> details > summary:has-text({json.dumps(text)}))"


def heights(shown: Any, line: str) -> list[float]:
    """The places of a chart's line, as it is drawn, from the top."""
    drawn = shown.get_attribute(line, "d") or ""
    return [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", drawn)]
