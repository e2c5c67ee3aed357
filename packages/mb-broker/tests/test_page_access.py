"""The broker's page in a real browser, beside a broker with users: its token, and what it hides."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mb_broker.access import token_digest

from .page_browser import (
    NO_BROKER,
    Browser,
    Bus,
    browser,
    chromium,
    entry,
    heights,
    new_bus,
    send,
    serving,
    until,
)

__all__ = ["browser", "chromium", "new_bus"]

TRAFFIC = """publish = ["#"]
request = ["#"]
subscribe = ["#"]
respond = ["#"]
"""
PARTS = {
    "operator": ["message", "log", "metrics", "services", "topics"],
    "counter": ["metrics", "topics"],
    "watcher": ["message"],
    "nobody": [],
    "single": ["services"],
}
NEW = "Not signed in to"
UNKNOWN = "\N{EN DASH}"
HIDDEN = {"metrics", "message", "services", "topics"}


def access(tmp_path: Path, *names: str, anonymous: str = "") -> Path:
    """An access file with these users of PARTS, whose tokens are `mb_` and their names."""
    text = ""
    for name, parts in PARTS.items():
        traffic = TRAFFIC if name == "operator" else ""
        text += f"[roles.{name}]\n{traffic}system = {parts}\n".replace("'", '"')
    for name in names:
        text += f'[[users]]\nname = "{name}"\ntoken_sha256 = "{token_digest(f"mb_{name}")}"\n'
        text += f'roles = ["{name}"]\n' + "max_connections = 1\n" * (name == "single")
    if anonymous:
        text += f'[anonymous]\nroles = ["{anonymous}"]\n'
    path = tmp_path / f"{'-'.join(names)}-{anonymous}.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
def new_page(
    browser: Browser, new_bus: Callable[..., Bus], tmp_path: Path
) -> Callable[..., tuple[Any, Bus]]:
    """Open the page of a broker with all users; they and `anonymous` are as for access()."""

    def open_page(anonymous: str = "", status: str = NEW, **options: Any) -> tuple[Any, Bus]:
        bus = new_bus(access=access(tmp_path, *PARTS, anonymous=anonymous))
        return browser.open(bus.url, status=status, **options), bus

    return open_page


def sign_in(shown: Any, token: str) -> None:
    shown.fill("#token", token)
    shown.click("#sign-in-form button[type=submit]")


def signed_in(browser: Browser, shown: Any, name: str) -> None:
    """Wait until the page has authenticated as this user."""
    browser.wait_for(shown, "#account-user", f"Signed in as {name}")
    browser.wait_for(shown, "#status", "Connected to")
    assert shown.is_hidden("#sign-in")


def denied(shown: Any) -> set[str]:
    """The parts that the page says it may not see."""
    notes = shown.locator(".denied").all_inner_texts()
    return {part for note in notes for part in HIDDEN if f'["{part}"]' in note}


def stored(shown: Any) -> list[Any]:
    found: list[Any] = shown.evaluate(
        "[localStorage.length, Object.values(sessionStorage), document.cookie]"
    )
    return found


def test_a_wrong_token_is_said_to_be_wrong_and_tried_once(
    browser: Browser, new_page: Callable[..., tuple[Any, Bus]]
) -> None:
    shown, bus = new_page()
    assert shown.title() == "MB broker (not signed in)"
    until(lambda: shown.evaluate("document.activeElement.id") == "token", shown)
    assert shown.is_hidden("#tiles")
    assert shown.is_hidden("#messages")
    assert shown.is_hidden("#cancel-sign-in")
    shown.keyboard.press("Enter")
    browser.wait_for(shown, "#token-fault", "Enter a token.")
    for token in ("mb_wrong", " mb_other ", "\N{SNOWMAN}" * 100, "x" * 20_000):
        sign_in(shown, token)
        until(lambda: shown.inner_text("#sign-in-progress") == "", shown)
        words = "exceeds limit" if len(token) > 10_000 else "does not know this token"
        browser.wait_for(shown, "#token-fault", words)
        browser.wait_for(shown, "#status", NEW)
        assert shown.get_attribute("#token", "aria-invalid") == "true"
        assert shown.input_value("#token") == ""
        assert shown.evaluate("document.activeElement.id") == "token"
        assert stored(shown) == [0, [], ""]
    # One connection to find out that a token is needed, and one for each token.
    assert [len(sent) for sent in browser.sent] == [1] * 5
    sign_in(shown, "mb_operator")
    signed_in(browser, shown, "operator")
    assert len(browser.sent) == 6
    assert bus.call(bus.service("Late", "mb_operator").request, "system.metrics", {})


def test_the_right_token_is_kept_for_the_tab_and_shown_nowhere(
    browser: Browser, new_page: Callable[..., tuple[Any, Bus]]
) -> None:
    shown, bus = new_page()
    sign_in(shown, "mb_operator")
    signed_in(browser, shown, "operator")
    client = bus.service("Weather", "mb_operator", weather_current=lambda message: 21)
    bus.call(client.publish, "weather.told", {"secret": "seen by operator"})
    send(shown, "request", "weather.current")
    browser.wait_for(shown, "#outcome [data-result=good]", "weather.current answered")
    row = browser.wait_for(shown, "#services tr", "Weather")
    row.get_by_text("user operator", exact=True).wait_for()
    assert denied(shown) == set()
    shown.check("#with-system")
    other = browser.open(bus.url, status=NEW)  # another tab has no token
    sign_in(other, "mb_operator")
    signed_in(browser, other, "operator")
    browser.wait_for(shown, "#trace", "system.authenticate")
    shown.locator(entry("system.authenticate")).locator("> details > summary").first.click()
    sent = "".join(text for texts in browser.sent for text in texts)
    assert sent.count("mb_operator") == 2
    for text in (shown.content(), shown.url, shown.evaluate("JSON.stringify(mb)")):
        assert "mb_operator" not in text
    assert stored(shown) == [0, ["mb_operator"], ""]
    shown.reload()
    signed_in(browser, shown, "operator")
    # Forgotten, with all that it was good for.
    browser.wait_for(shown, "#services tr", "Weather")
    shown.get_by_role("button", name="Sign out").click()
    browser.wait_for(shown, "#status", NEW)
    assert stored(shown) == [0, [], ""]
    assert shown.inner_text("#account") == ""
    assert "Weather" not in shown.content()
    assert "operator" not in shown.content()
    signed_in(browser, other, "operator")


def test_it_authenticates_again_until_the_broker_no_longer_knows_the_user(
    browser: Browser, tmp_path: Path
) -> None:
    browser.expected = NO_BROKER
    everybody = str(access(tmp_path, "operator", "counter"))
    with serving("ws://127.0.0.1:0", everybody) as url:
        shown = browser.open(url, status=NEW)
        sign_in(shown, "mb_operator")
        signed_in(browser, shown, "operator")
    browser.wait_for(shown, "#status", "Connection lost")
    with serving(url, everybody):
        signed_in(browser, shown, "operator")
        browser.wait_for(shown, "#services tr", "this page").get_by_text("user operator").wait_for()
    with serving(url, str(access(tmp_path, "counter"))):
        browser.wait_for(shown, "#token-fault", "The broker no longer accepts your token.")
        browser.wait_for(shown, "#status", NEW)
        assert stored(shown) == [0, [], ""]
        assert shown.is_hidden("#tiles")
        sign_in(shown, "mb_counter")
        signed_in(browser, shown, "counter")
    with serving(url):  # without users
        browser.wait_for(shown, "#status", "Connected to")
        until(lambda: denied(shown) == set(), shown)
        until(lambda: shown.inner_text("#account") == "", shown)
        assert stored(shown) == [0, [], ""]
        until(lambda: shown.is_checked("#follow"), shown)


def test_what_users_may_see_changes_with_the_file(
    browser: Browser, new_bus: Callable[..., Bus], tmp_path: Path
) -> None:
    path = access(tmp_path, "operator", "counter")
    bus = new_bus(access=path)
    shown = browser.open(bus.url, status=NEW)
    sign_in(shown, "mb_operator")
    signed_in(browser, shown, "operator")
    browser.wait_for(shown, "#topics tr", "system.message")
    assert denied(shown) == set()
    fewer = path.read_text().replace('roles = ["operator"]', 'roles = ["counter"]')
    path.write_text(fewer)
    bus.broker.reload_access()
    until(lambda: denied(shown) == {"message", "services"}, shown)
    browser.wait_for(shown, "#topics-more", "No subscriptions yet.")
    path.write_text(fewer.replace('name = "operator"', 'name = "renamed"'))
    bus.broker.reload_access()
    # It authenticates again: the token is the same, but the user has another name.
    signed_in(browser, shown, "renamed")
    path.write_text(access(tmp_path, "counter").read_text())
    bus.broker.reload_access()
    browser.wait_for(shown, "#token-fault", "The broker no longer accepts your token.")
    assert shown.is_hidden("#tiles")


def test_a_user_sees_what_its_roles_allow_and_is_said_what_is_missing(
    browser: Browser, new_page: Callable[..., tuple[Any, Bus]]
) -> None:
    shown, bus = new_page()
    bus.listen(bus.service("Ledger", "mb_operator"), "shop.#")
    sign_in(shown, "mb_counter")
    signed_in(browser, shown, "counter")
    until(lambda: denied(shown) == {"message", "services"}, shown)
    note = 'counter may not see messages. This takes a role with system = ["message"].'
    assert shown.inner_text("#messages-denied") == note
    for hidden in ("#messages", "#latency", "#services"):
        assert shown.is_hidden(hidden)
    assert shown.is_disabled("#follow")
    assert not shown.is_checked("#follow")
    assert shown.inner_text("#tile-services") == UNKNOWN
    row = browser.wait_for(shown, "#topics tr", "shop.#")
    assert re.search(r"publish\s+[0-9a-f]{8}$", row.inner_text())
    until(lambda: len(heights(shown, "#rates path.message")) > 2, shown)
    assert shown.inner_text("#tile-uptime") != UNKNOWN
    send(shown, "publish", "shop.sold")
    browser.wait_for(shown, "#outcome", "FORBIDDEN: the user 'counter' may not publish")
    # A second of everything that is allowed, and each part that is denied was asked for once.
    (sent,) = browser.sent[1:]
    until(lambda: sum("system.topic.subscriptions" in text for text in sent) > 2, shown)
    assert sum("system.service.list" in text for text in sent) == 1
    assert sum("system.topic.subscribe:" in text for text in sent) == 1


def test_messages_and_latencies_need_nothing_else(
    browser: Browser, new_page: Callable[..., tuple[Any, Bus]]
) -> None:
    shown, bus = new_page()
    client = bus.service("Echo", "mb_operator", echo_back=lambda message: 1)
    sign_in(shown, "mb_watcher")
    signed_in(browser, shown, "watcher")
    until(lambda: denied(shown) == {"metrics", "services", "topics"}, shown)
    shown.check("#with-system")

    def ask() -> bool:
        bus.call(client.request, "echo.back", {})
        return len(heights(shown, "#latency path.slowest")) > 1

    until(ask, shown)
    browser.wait_for(shown, "#trace", "echo.back")
    # What the page itself asks is not shown: it has found its own id.
    assert shown.evaluate("mb.model.directory.own")
    assert "system.topic.subscriptions" not in shown.inner_text("#trace")
    for tile in ("services", "topics", "messages", "uptime"):
        assert shown.inner_text(f"#tile-{tile}") == UNKNOWN


def test_an_anonymous_page_may_sign_in(
    browser: Browser, new_page: Callable[..., tuple[Any, Bus]]
) -> None:
    shown, bus = new_page("counter", "Connected to")
    client = bus.service("Talker", "mb_operator")
    until(lambda: denied(shown) == {"message", "services"}, shown)
    assert shown.inner_text("#services-denied").startswith("Anonymous clients may not see")
    assert shown.is_visible("#tiles")
    assert shown.is_hidden("#sign-in")
    button = shown.locator("#open-sign-in")
    button.focus()
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.id") == "token"
    until(lambda: button.get_attribute("aria-expanded") == "true", shown)
    shown.get_by_role("button", name="Cancel").click()
    assert shown.is_hidden("#sign-in")
    button.click()
    shown.keyboard.type("mb_wrong")
    shown.keyboard.press("Enter")
    browser.wait_for(shown, "#token-fault", "does not know this token")
    browser.wait_for(shown, "#status", "Connected to")
    assert shown.is_visible("#tiles")
    shown.keyboard.type("mb_operator")
    shown.keyboard.press("Enter")
    signed_in(browser, shown, "operator")
    until(lambda: denied(shown) == set(), shown)
    assert shown.is_hidden("#open-sign-in")
    bus.call(client.publish, "news.today", {})
    browser.wait_for(shown, "#trace", "news.today")


def test_signing_in_is_offered_when_what_is_sent_is_forbidden(
    browser: Browser, new_bus: Callable[..., Bus], tmp_path: Path
) -> None:
    path = access(tmp_path, "operator", anonymous="watcher")
    path.write_text(path.read_text().replace('["message"]', str(PARTS["operator"])))
    shown = browser.open(new_bus(access=path).url)
    browser.wait_for(shown, "#services tr", "this page")
    assert shown.is_hidden("#open-sign-in")
    send(shown, "publish", "news.today")
    browser.wait_for(shown, "#outcome", "FORBIDDEN: an anonymous client may not publish")
    shown.get_by_role("button", name="Sign in").first.wait_for()


def test_a_user_with_too_many_connections_is_said_so(
    browser: Browser, new_page: Callable[..., tuple[Any, Bus]]
) -> None:
    shown, bus = new_page()
    client = bus.service("First", "mb_single")
    sign_in(shown, "mb_single")
    browser.wait_for(shown, "#token-fault", "SERVICE_UNAVAILABLE, the user 'single' already has 1")
    browser.wait_for(shown, "#status", NEW)
    bus.call(client.close)
    sign_in(shown, "mb_single")
    signed_in(browser, shown, "single")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_form_for_a_token_fits_a_phone(
    scheme: str, browser: Browser, new_page: Callable[..., tuple[Any, Bus]]
) -> None:
    shown, _ = new_page(viewport={"width": 360, "height": 740}, is_mobile=True, color_scheme=scheme)
    sign_in(shown, "mb_wrong")
    browser.wait_for(shown, "#token-fault", "does not know this token")
    wide = "document.documentElement.scrollWidth"
    assert shown.evaluate(wide) == 360
    sign_in(shown, "mb_counter")
    signed_in(browser, shown, "counter")
    until(lambda: denied(shown) == {"message", "services"}, shown)
    assert shown.evaluate(wide) == 360
