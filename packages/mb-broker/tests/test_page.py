"""The broker's page, in a real browser and with a real broker."""

from __future__ import annotations

import json
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import mb_broker
from mb_core import Message, MessageBrokerClient, ResponseError


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

    def open(self, url: str, *, edit: tuple[str, str, str] | None = None, **options: Any) -> Any:
        """The page at the broker's WebSocket URL, once it is connected.

        `edit` replaces a text in one of its files: the name of the file, the text, the new text.
        """
        context = self.chromium.new_context(
            **{"viewport": {"width": 1280, "height": 900}} | options
        )
        context.set_default_timeout(LIMIT * 1000)
        shown = context.new_page()
        shown.on("pageerror", lambda error: self.note(str(error)))
        shown.on("console", lambda said: self.note(f"{said.type}: {said.text}"))
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
        self.wait_for(shown, "#status", "Connected to")
        return shown

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
def chromium(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A headless Chromium; tests that need it are skipped where it or its driver is missing."""
    if request.config.getoption("--backend") == ["trio"]:
        pytest.skip("a browser has no use for an event loop: these tests run with asyncio's")
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

    def service(self, name: str, **handlers: Callable[[Message], Any]) -> MessageBrokerClient:
        """A service over TCP that answers requests; `a_b` stands for the topic a.b."""
        client = MessageBrokerClient(self.broker.url_of("tcp"))
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


def test_it_connects_and_lists_services_and_who_listens(browser: Browser, bus: Bus) -> None:
    bus.service("Weather", weather_current=lambda message: {})
    shown = browser.open(bus.url)
    row = browser.wait_for(shown, "#services tr", "Weather")
    row.get_by_text("Weather, in a test").wait_for()
    assert re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", row.inner_text())
    assert re.search(r"(now|\d s ago)\s+(now|\d s ago)$", row.inner_text())
    row = browser.wait_for(shown, "#topics tr", "weather.current")
    row.get_by_text("request", exact=True).wait_for()
    row.get_by_text("Weather (priority 1)").wait_for()
    browser.wait_for(shown, "#topics tr", "system.message").get_by_text("this page").wait_for()
    assert shown.title() == f"MB broker at {bus.url.removeprefix('ws://')}"


def test_it_shows_services_that_come_go_and_register_late(browser: Browser, bus: Bus) -> None:
    shown = browser.open(bus.url)
    client = bus.service("Early")
    browser.wait_for(shown, "#services tr", "Early")
    bus.call(client.register_service, "Renamed", "a name of its own")
    browser.wait_for(shown, "#services tr", "Renamed")
    bus.call(client.close)
    shown.locator("#services tr").filter(has_text="Renamed").wait_for(state="detached")


def test_a_request_from_the_form_is_answered_and_shown(browser: Browser, bus: Bus) -> None:
    bus.service("Echo", echo_back=lambda message: {"got": message.payload})
    shown = browser.open(bus.url)
    # Numbers that JavaScript can't hold, and a payload of several lines.
    send(shown, "request", "Echo.back", '{\n  "big": 12345678901234567890,\n  "small": 1.0\n}')
    browser.wait_for(shown, "#outcome [data-result=good]", "Echo.back answered in")
    text = shown.inner_text("#outcome pre")
    assert json.loads(text) == {"got": {"big": 12345678901234567890, "small": 1}}
    assert "12345678901234567890" in text


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("far.out", ["OUT_OF_RANGE: too far", '"limit": 7']),
        ("nobody.there", ["NO_ROUTE_FOUND: "]),
        ("for.ever", ["TIMEOUT: ", "targetServiceId"]),
        ("system.no.such", ["TOPIC_NOT_SUPPORTED: "]),
    ],
)
def test_errors_of_services_and_of_the_broker_are_shown(
    browser: Browser, bus: Bus, topic: str, words: list[str]
) -> None:
    def refuse(message: Message) -> None:
        raise ResponseError.of("OUT_OF_RANGE", "too far", details={"limit": 7})

    async def wait(message: Message) -> None:
        import anyio

        await anyio.sleep_forever()

    bus.service("Errors", far_out=refuse, for_ever=wait)
    shown = browser.open(bus.url)
    send(shown, "request", topic, timeout=200)
    browser.wait_for(shown, "#outcome [data-result=bad]", words[0])
    for word in words:
        assert word in shown.inner_text("#outcome")
    if topic != "system.no.such":
        failed = shown.locator(entry(topic)).locator("> details[data-status=failed]").first
        failed.wait_for()
        assert words[0].partition(":")[0] in failed.inner_text()


def test_what_the_form_publishes_arrives(browser: Browser, bus: Bus) -> None:
    bus.listen(bus.service("Ledger"), "shop.#")
    shown = browser.open(bus.url)
    send(shown, "publish", "shop.sold", '{"pieces": 3}')
    browser.wait_for(shown, "#outcome [data-result=good]", "shop.sold was published")
    (message,) = until(lambda: bus.heard, shown)
    assert (message.topic, message.payload) == ("shop.sold", {"pieces": 3})
    shown.locator(entry("shop.sold")).get_by_text("1 listener").first.wait_for()
    send(shown, "publish", "nobody.listens", "[]")
    browser.wait_for(shown, "#outcome [data-result=bad]", "NO_ROUTE_FOUND")


def test_an_event_without_listeners_is_no_error(browser: Browser, bus: Bus) -> None:
    client = bus.service("Talker")
    shown = browser.open(bus.url)
    bus.call(client.publish, "event.unheard", {})
    line = shown.locator(entry("event.unheard")).locator("> details[data-status=unheard]")
    line.get_by_text("unheard", exact=True).wait_for()


@pytest.mark.parametrize(
    ("topic", "payload", "timeout", "field", "words"),
    [
        ("", "{}", "5000", "topic", "1 to 5 words"),
        ("a.b.c.d.e.f", "{}", "5000", "topic", "1 to 5 words"),
        ("a b", "{}", "5000", "topic", "1 to 5 words"),
        ("a.b", "{", "5000", "payload", "This is no JSON: "),
        ("a.b", '{"a": 1}\n{"b": 2}', "5000", "payload", "This is no JSON: "),
        ("a.b", '"' + "é" * 8192 + '"', "5000", "payload", "16,386 bytes; the limit is 16,384"),
        ("a.b", "{}", "0", "timeout", "from 1 to 3,600,000"),
        ("a.b", "{}", "3600001", "timeout", "from 1 to 3,600,000"),
        ("a.b", "{}", "1.5", "timeout", "from 1 to 3,600,000"),
    ],
)
def test_the_form_says_what_is_wrong_before_anything_is_sent(
    browser: Browser, bus: Bus, topic: str, payload: str, timeout: str, field: str, words: str
) -> None:
    shown = browser.open(bus.url)
    shown.fill("#send-topic", topic)
    shown.fill("#send-payload", payload)
    shown.fill("#send-timeout", timeout)
    shown.click("#send button[value=request]")
    browser.wait_for(shown, f"#send-{field}-fault", words)
    assert shown.evaluate("document.activeElement.id") == f"send-{field}"
    assert shown.get_attribute(f"#send-{field}", "aria-invalid") == "true"
    assert shown.inner_text("#outcome") == ""


def test_cause_and_effect_are_nested(browser: Browser, bus: Bus) -> None:
    async def outer(message: Message) -> dict[str, Any]:
        inner = await client.request("inner.ask", {"n": 1}, parent_id=message.request_id)
        await client.publish("inner.told", {"n": 2}, parent_id=message.request_id)
        return {"inner": inner.payload}

    client = bus.service("Outer", outer_ask=outer)
    listener = bus.service("Inner", inner_ask=lambda message: {"answer": 42})
    bus.listen(listener, "inner.told")
    shown = browser.open(bus.url)
    send(shown, "request", "outer.ask", '{"question": "why"}')
    root = browser.wait_for(shown, "#trace > li", "outer.ask")
    root.locator("> details > summary").get_by_text("answered").wait_for()
    assert "this page → Outer" in root.locator("> details > summary").inner_text()
    effects = root.locator("> ol > li > details > summary")
    until(lambda: effects.count() == 2, shown)
    asked, told = effects.all_inner_texts()
    assert re.search(r"inner\.ask request.*answered .*ms.*Outer → Inner", " ".join(asked.split()))
    assert re.search(r"inner\.told publish.*1 listener.*Outer → Inner", " ".join(told.split()))
    root.locator("> details > summary").click()
    inside = root.locator("> details > .inside")
    inside.get_by_text('"question": "why"').wait_for()
    inside.get_by_text('"answer": 42').wait_for()
    inside.get_by_text("Time limit").wait_for()


def test_messages_are_found_by_word_error_and_system_topic(browser: Browser, bus: Bus) -> None:
    def fail(message: Message) -> None:
        raise ResponseError.of("BROKEN", "it broke")

    client = bus.service("Both", good_one=lambda message: {"word": "needle"}, bad_one=fail)
    shown = browser.open(bus.url)
    send(shown, "request", "good.one")
    browser.wait_for(shown, "#trace", "good.one")
    send(shown, "request", "bad.one")
    browser.wait_for(shown, "#trace", "bad.one")
    bus.call(client.request, "system.heartbeat", {})
    topics = shown.locator("#trace .what b")
    assert topics.all_inner_texts() == ["bad.one", "good.one"]
    shown.check("#with-system")
    browser.wait_for(shown, "#trace", "system.heartbeat")
    shown.uncheck("#with-system")
    shown.check("#only-errors")
    until(lambda: topics.all_inner_texts() == ["bad.one"], shown)
    shown.uncheck("#only-errors")
    shown.fill("#filter", "Needle")
    until(lambda: topics.all_inner_texts() == ["good.one"], shown)
    shown.fill("#filter", "no such word")
    browser.wait_for(shown, "#nothing", "No message is like that.")


def test_following_can_be_switched_off_and_on(browser: Browser, bus: Bus) -> None:
    client = bus.service("Talker")
    bus.listen(client, "talk.#")
    shown = browser.open(bus.url)

    def followers() -> list[Any]:
        listed = bus.call(client.request, "system.topic.subscriptions", {}).payload
        return [item for item in listed["subscriptions"] if item["topic"] == "system.message"]

    until(followers, shown)
    shown.uncheck("#follow")
    until(lambda: not followers(), shown)
    bus.call(client.publish, "talk.unseen", {})
    shown.check("#follow")
    until(followers, shown)
    bus.call(client.publish, "talk.seen", {})
    browser.wait_for(shown, "#trace", "talk.seen")
    assert "talk.unseen" not in shown.inner_text("#trace")


def test_following_stops_by_itself_where_nobody_could_read(browser: Browser, bus: Bus) -> None:
    async def flood() -> None:
        for _ in range(200):
            await client.publish("much.told", {})

    client = bus.service("Talker")
    bus.listen(client, "much.told")
    # The real limit is more than a busy machine may reach.
    shown = browser.open(bus.url, edit=("monitor.js", "FEED_LIMIT = 3_000", "FEED_LIMIT = 100"))

    def has_stopped() -> bool:
        bus.call(flood)
        return not shown.is_checked("#follow")

    until(has_stopped, shown)
    browser.wait_for(shown, "#notice", "Following has stopped")
    browser.wait_for(shown, "#status", "Connected to")
    shown.check("#follow")
    until(lambda: shown.inner_text("#notice") == "", shown)


def heights(shown: Any, line: str) -> list[float]:
    """The places of a chart's line, as it is drawn, from the top."""
    drawn = shown.get_attribute(line, "d") or ""
    return [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", drawn)]


def test_the_charts_move(browser: Browser, bus: Bus) -> None:
    client = bus.service("Busy", busy_ask=lambda message: {})
    bus.listen(client, "busy.told")
    shown = browser.open(bus.url)
    until(lambda: heights(shown, "#rates path.message"), shown)

    def work() -> bool:
        for _ in range(20):
            bus.call(client.request, "busy.ask", {})
            bus.call(client.publish, "busy.told", {})
        lines = ["#rates path.publish", "#rates path.request", "#latency path.slowest"]
        drawn = [heights(shown, line) for line in lines]
        # Somewhere above the ground, which is the lowest of all.
        return all(len(line) > 2 and min(line) < max(line) - 5 for line in drawn)

    until(work, shown)
    assert re.search(r"published \d+", shown.inner_text("#rates .legend"))
    assert re.search(r"average .*ms", shown.inner_text("#latency .legend"))
    before = shown.get_attribute("#rates path.message", "d")
    until(lambda: shown.get_attribute("#rates path.message", "d") != before, shown)
    shown.hover("#rates svg", position={"x": 5, "y": 20})
    assert shown.get_attribute("#rates .cursor", "visibility") == "visible"
    shown.select_option("#span", "3600")
    shown.locator("#rates text").filter(has_text="1 h ago").wait_for()


MARKUP = "<img src=x onerror=window.hit=1>"
SCRIPT = "</script><script>window.hit=1</script>"


def test_what_services_send_is_shown_as_text_and_runs_nothing(browser: Browser, bus: Bus) -> None:
    def fail(message: Message) -> None:
        raise ResponseError.of(MARKUP, SCRIPT, details={MARKUP: SCRIPT})

    client = bus.service(MARKUP, mark_up=lambda message: {MARKUP: SCRIPT}, mark_down=fail)
    bus.call(client.register_service, MARKUP, SCRIPT)
    shown = browser.open(bus.url)
    row = browser.wait_for(shown, "#services tr", MARKUP)
    assert SCRIPT in row.inner_text()
    for topic, place in (("mark.up", "#outcome pre"), ("mark.down", "#outcome p")):
        send(shown, "request", topic, json.dumps({"payload": SCRIPT}))
        browser.wait_for(shown, place, SCRIPT)
        item = shown.locator(entry(topic)).first
        item.locator("> details > summary").click()
        item.locator("pre").filter(has_text=SCRIPT).first.wait_for()
        assert MARKUP in item.inner_text()
    # No broker passes such a topic on; the page does not rely on it.
    shown.evaluate(
        "(topic) => mb.model.trace.take(JSON.stringify({timestamp: topic, from: topic, timeout:"
        " topic, message: {header: {action: topic, topic, requestId: topic}, payload: topic}}))",
        MARKUP + SCRIPT,
    )
    browser.wait_for(shown, "#trace .what b", MARKUP + SCRIPT)
    assert shown.evaluate("window.hit") is None
    assert shown.locator("img").count() == 0
    assert shown.locator("script").count() == 1


def test_the_policy_holds_even_if_the_script_had_a_hole(browser: Browser, bus: Bus) -> None:
    shown = browser.open(bus.url)
    assigned = shown.evaluate(
        "(html) => { try { document.body.innerHTML = html; return 'assigned'; }"
        " catch (error) { return error.name; } }",
        MARKUP,
    )
    assert assigned == "TypeError"
    assert shown.evaluate("window.hit") is None
    assert any("trusted" in fault.lower() for fault in browser.faults)
    browser.faults.clear()


def test_the_form_is_used_with_the_keyboard_alone(browser: Browser, bus: Bus) -> None:
    bus.service("Echo", echo_back=lambda message: message.payload)
    shown = browser.open(bus.url)
    press = shown.keyboard.press

    def focused() -> str:
        name: str = shown.evaluate("document.activeElement.id || document.activeElement.value")
        return name

    press("Tab")
    assert shown.evaluate("document.activeElement.textContent") == "Skip to the content"
    press("Enter")
    assert focused() == "main"
    for _ in range(20):
        press("Tab")
        if focused() == "send-topic":
            break
    assert focused() == "send-topic"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert shown.evaluate(outline) == "solid"
    shown.keyboard.type("echo.back")
    press("Tab")
    press("Control+A")
    shown.keyboard.type('{"typed": ')
    press("Control+Enter")
    browser.wait_for(shown, "#send-payload-fault", "This is no JSON")
    assert focused() == "send-payload"
    shown.keyboard.type("true}")
    press("Tab")
    press("Tab")
    assert focused() == "request"
    press("Enter")
    browser.wait_for(shown, "#outcome [data-result=good]", "echo.back answered")
    assert json.loads(shown.inner_text("#outcome pre")) == {"typed": True}
    # The line of the message opens with the keyboard, and keeps the focus while others come.
    shown.locator(entry("echo.back")).locator("> details > summary").focus()
    press("Enter")
    browser.wait_for(shown, "#trace pre", '"typed": true')
    send_again = shown.evaluate("mb.client.request('echo.back', '7').then(({text}) => text)")
    assert send_again == "7"
    until(lambda: shown.locator("#trace > li").count() == 2, shown)
    assert shown.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_a_topic_of_the_table_fills_the_form(browser: Browser, bus: Bus) -> None:
    client = bus.service("Echo", echo_back=lambda message: 1)
    bus.listen(client, "pattern.#")
    shown = browser.open(bus.url)
    shown.get_by_role("button", name="echo.back").click()
    assert shown.input_value("#send-topic") == "echo.back"
    assert shown.evaluate("document.activeElement.id") == "send-payload"
    browser.wait_for(shown, "#topics tr", "pattern.#")
    assert shown.get_by_role("button", name="pattern").count() == 0
    offered = shown.locator("#known-topics option").evaluate_all("(all) => all.map((o) => o.value)")
    assert offered == ["echo.back"]


SERVE = """
import sys, threading, mb_broker
with mb_broker.running(sys.argv[1]) as broker:
    print(broker.url, flush=True)
    threading.Event().wait()
"""


@contextmanager
def serving(url: str) -> Iterator[str]:
    """A broker in a process of its own, which is killed at the end; gives its URL."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, url], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def test_it_says_that_the_broker_is_gone_and_comes_back(browser: Browser) -> None:
    browser.expected = NO_BROKER
    with serving("ws://127.0.0.1:0") as url:
        shown = browser.open(url)
    browser.wait_for(shown, "#status", "Connection lost")
    browser.wait_for(shown, "#countdown", "next attempt in")
    assert shown.title() == "MB broker (not connected)"
    send(shown, "request", "system.heartbeat")
    browser.wait_for(shown, "#outcome", "NOT_CONNECTED")
    with serving(url) as again:
        assert again == url
        browser.wait_for(shown, "#status", "Connected to")
        assert shown.is_hidden("#retry")
        send(shown, "request", "system.heartbeat")
        browser.wait_for(shown, "#outcome", "system.heartbeat answered")
        # It is registered, and follows again.
        browser.wait_for(shown, "#services tr", "this page")
        browser.wait_for(shown, "#topics tr", "system.message").get_by_text("this page").wait_for()
    browser.wait_for(shown, "#status", "Connection lost")
    shown.click("#retry")
    browser.wait_for(shown, "#countdown", "next attempt in")


class Prefix(socketserver.BaseRequestHandler):
    """Passes connections on as a proxy that serves a broker under /mb/, and nothing else."""

    def handle(self) -> None:
        server: Any = self.server
        received = self.request.recv(65_536)
        method, _, rest = received.partition(b" /mb/")
        if not rest:
            return
        with socket.create_connection(server.broker) as broker:
            broker.sendall(method + b" /" + rest)
            back = threading.Thread(target=self.relay, args=(broker, self.request))
            back.start()
            self.relay(self.request, broker)
            back.join()

    def relay(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def test_it_works_below_a_path_of_its_own(browser: Browser, bus: Bus) -> None:
    bus.service("Echo", echo_back=lambda message: message.payload)
    host, _, port = bus.url.removeprefix("ws://").strip("/").partition(":")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Prefix) as server:
        server.broker = (host, int(port))  # type: ignore[attr-defined]  # Prefix reads it
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            shown = browser.open(f"ws://127.0.0.1:{server.server_address[1]}/mb/")
            send(shown, "request", "echo.back", "7")
            browser.wait_for(shown, "#outcome [data-result=good]", "echo.back answered in")
            assert shown.evaluate("getComputedStyle(document.querySelector('#tiles')).display") == (
                "grid"
            )
        finally:
            browser.close()
            server.shutdown()


def test_it_answers_heartbeats(browser: Browser, new_bus: Callable[..., Bus]) -> None:
    # Its own questions come once a second: without answers it would be dropped between two.
    bus = new_bus(heartbeat_after=200, drop_after=600)
    shown = browser.open(bus.url)
    own = "mb.model.directory.own"
    until(lambda: shown.evaluate(own), shown)
    before = shown.evaluate(own)
    until(lambda: len(heights(shown, "#rates path.message")) >= 4, shown)
    assert shown.evaluate(own) == before


TALK = """(count) => {
  const entry = (more, header, payload = {}) => mb.model.trace.take(JSON.stringify(
    {timestamp: new Date().toISOString(), ...more, message: {header, payload}}));
  const ask = (n, topic) => {
    entry({from: "a", timeout: 5000}, {action: "request", topic, requestId: `q${n}`});
    entry({to: "b", maskedId: `q${n}`}, {action: "request", topic, requestId: `b${n}`});
  };
  const answer = (n, topic, payload) => {
    entry({from: "b", timeout: 5000}, {action: "response", topic, requestId: `b${n}`}, payload);
    entry({to: "a"}, {action: "response", topic, requestId: `q${n}`}, payload);
  };
  ask("slow", "slow.one");
  ask("bad", "bad.one");
  answer("bad", "bad.one", {error: {code: "BAD", message: "early"}});
  for (let n = 0; n < count; n++) { ask(n, "usual.one"); answer(n, "usual.one"); }
  answer("slow", "slow.one", {error: {code: "SLOW", message: "late"}});
  return [...mb.model.trace.roots()].length;
}"""


def test_memory_is_bounded_and_old_errors_are_kept(browser: Browser, bus: Bus) -> None:
    shown = browser.open(bus.url)
    assert shown.evaluate(TALK, 20_000) <= 600
    assert shown.evaluate("mb.model.trace.failed") == 2
    until(lambda: shown.locator("#trace li").count() == 100, shown)
    shown.check("#only-errors")
    until(lambda: shown.locator("#trace li").count() == 2, shown)
    text = shown.inner_text("#trace")
    assert "BAD" in text
    assert "SLOW" in text


def test_a_phone_scrolls_in_one_direction_only(browser: Browser, bus: Bus) -> None:
    long = ".".join(["abcdefghij" * 4] * 5)
    name = "W" * 36
    client = bus.service(name)
    bus.call(client.register_service, name, "W" * 1024)
    bus.listen(client, long)
    shown = browser.open(bus.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    send(shown, "publish", long, json.dumps({"W" * 300: "W" * 300}))
    browser.wait_for(shown, "#outcome [data-result=good]", "was published")
    shown.locator(entry(long)).locator("> details > summary").click()
    browser.wait_for(shown, "#trace pre", "WWW")
    browser.wait_for(shown, "#services tr", name)
    assert shown.evaluate("document.documentElement.scrollWidth") == 360
    assert shown.evaluate(
        "[...document.querySelectorAll('.scroll, #messages, pre')]"
        ".every((box) => box.scrollWidth <= box.clientWidth)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_readable(browser: Browser, bus: Bus, scheme: str) -> None:
    shown = browser.open(bus.url, color_scheme=scheme)
    back = luminance(shown, "--back")
    assert (back > 0.5) == (scheme == "light")
    for ground in ("--card", "--back", "--bad-back"):
        for ink in ("--ink", "--muted", "--accent", "--good", "--wait", "--bad"):
            assert contrast(shown, ink, ground) >= 4.5, (ink, ground)
    assert contrast(shown, "--on-accent", "--accent") >= 4.5
    for line in ("message", "publish", "request", "error", "average", "slowest", "field"):
        assert contrast(shown, f"--{line}", "--card") >= 3, line


def luminance(shown: Any, name: str) -> float:
    """The relative luminance of a colour of the page, as WCAG defines it."""
    style = "getComputedStyle(document.documentElement)"
    colour = shown.evaluate(f"{style}.getPropertyValue('{name}')").strip().removeprefix("#")
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(shown: Any, one: str, other: str) -> float:
    dark, light = sorted([luminance(shown, one), luminance(shown, other)])
    return (light + 0.05) / (dark + 0.05)
