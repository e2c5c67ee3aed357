"""The broker's page in a real browser: what it shows, and its form."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mb_core import Message, ResponseError

from .page_browser import (
    Browser,
    Bus,
    browser,
    bus,
    chromium,
    entry,
    heights,
    new_bus,
    send,
    until,
)

__all__ = ["browser", "bus", "chromium", "new_bus"]


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
        ("", "{}", "5000", "topic", "1 to 5 segments"),
        ("a.b.c.d.e.f", "{}", "5000", "topic", "1 to 5 segments"),
        ("a b", "{}", "5000", "topic", "1 to 5 segments"),
        ("a.b", "{", "5000", "payload", "This is not valid JSON: "),
        ("a.b", '{"a": 1}\n{"b": 2}', "5000", "payload", "This is not valid JSON: "),
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
    browser.wait_for(shown, "#nothing", "No matching messages.")


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
    browser.wait_for(shown, "#send-payload-fault", "This is not valid JSON")
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
