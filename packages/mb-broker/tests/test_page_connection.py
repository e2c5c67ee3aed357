"""The broker's page in a real browser: its connection, its limits, and what can't harm it."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mb_core import Message, ResponseError

from .page_browser import (
    NO_BROKER,
    Browser,
    Bus,
    browser,
    bus,
    chromium,
    entry,
    heights,
    new_bus,
    send,
    serving,
    until,
)

__all__ = ["browser", "bus", "chromium", "new_bus"]


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
    browser.wait_for(shown, "#notice", "Follow was turned off")
    browser.wait_for(shown, "#status", "Connected to")
    shown.check("#follow")
    until(lambda: shown.inner_text("#notice") == "", shown)


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
