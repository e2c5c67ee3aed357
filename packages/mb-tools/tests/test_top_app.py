"""The screen of `mb top`, used by its keys beside a real broker.  Textual runs on asyncio only."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mb_client import Broker, MBError, MessageBrokerClient, running

pytest.importorskip("textual")

from mb_tools.top.app import Dialog

from .top_screen import names, on_asyncio, screen, talking


async def ask(client: MessageBrokerClient, *topics: str) -> None:
    for topic in topics:
        with contextlib.suppress(MBError):
            await client.request(topic, {})


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
@on_asyncio
async def test_services_topics_and_errors_appear(mb_broker: Broker, size: tuple[int, int]) -> None:
    url = mb_broker.url_of("tcp")
    async with talking(url) as client, screen(url, size=size) as seen:
        await seen.until(lambda: seen.shows("Bakery") and seen.shows("pie.bake"))
        await ask(client, "bread.bake", "pie.bake", "nobody.there")
        await client.publish("bread.done", {})
        await seen.until(lambda: seen.shows("NO_FLOUR") and seen.shows("NO_ROUTE_FOUND"))
        await seen.until(lambda: seen.shows("bread.done"))
        await seen.until(lambda: seen.shows("up ") and seen.shows("3 connections"))
        assert seen.shows("messages ")
        bakery = next(line for line in seen.lines() if "Bakery" in line)
        assert "bread.bake" in bakery
        assert seen.shows("out of flour")
        # Nothing is wider than the screen, and no pane is without rows.
        assert all(len(line) <= size[0] for line in seen.lines())
        assert all(pane.size.height >= 4 for pane in seen.app.panes)


@on_asyncio
async def test_tab_goes_from_pane_to_pane_and_back(mb_broker: Broker) -> None:
    async with screen(mb_broker.url) as seen:
        assert seen.services.has_focus
        assert seen.shows("▶ services")
        await seen.press("tab")
        assert seen.topics.has_focus
        assert seen.shows("▶ topics")
        await seen.press("tab", "tab")
        assert seen.services.has_focus
        await seen.press("shift+tab")
        assert seen.errors.has_focus


@on_asyncio
async def test_s_sorts_by_the_next_column_and_r_the_other_way_round(mb_broker: Broker) -> None:
    async with talking(mb_broker.url), screen(mb_broker.url, audit=False) as seen:
        await seen.until(lambda: len(seen.services.shown) == 3)
        assert seen.shows("req/s▼")
        while not seen.shows("name▲"):
            await seen.press("s")
        assert names(seen.services) == ["Bakery", "mb top", "Shop"]
        await seen.press("r")
        assert seen.shows("name▼")
        assert names(seen.services) == ["Shop", "mb top", "Bakery"]
        # The order of one pane is not that of the others.
        assert seen.shows("msg/s▼")


@on_asyncio
async def test_a_click_on_a_title_sorts_by_its_column(mb_broker: Broker) -> None:
    async with talking(mb_broker.url), screen(mb_broker.url, audit=False) as seen:
        await seen.until(lambda: len(seen.services.shown) == 3)
        # What is said about the connection and the feed moves the panes as it comes and goes.
        await seen.until(lambda: seen.shows("audit feed off") and not seen.shows("NO CONN"))
        await seen.until(lambda: seen.services.region.y == 3)
        await seen.click(seen.services, 0)
        await seen.until(lambda: seen.shows("name▲"))
        assert names(seen.services) == ["Bakery", "mb top", "Shop"]
        await seen.click(seen.services, 0)
        await seen.until(lambda: seen.shows("name▼"))
        assert names(seen.services) == ["Shop", "mb top", "Bakery"]
        await seen.click(seen.services, 2)
        await seen.until(lambda: seen.services.current.name == "mb top")
        await seen.click(seen.services, 3, times=2)
        await seen.until(lambda: isinstance(seen.app.screen, Dialog))


@on_asyncio
async def test_slash_filters_all_panes_and_escape_shows_all_again(mb_broker: Broker) -> None:
    async with talking(mb_broker.url), screen(mb_broker.url) as seen:
        await seen.until(lambda: len(seen.services.shown) == 3 and len(seen.topics.shown) == 4)
        await seen.press("slash", "P", "I", "E")
        assert names(seen.services) == ["Bakery"]
        assert [row.topic for row in seen.topics.shown] == ["pie.bake"]
        assert seen.shows("services 1, 3 in all")
        await seen.press("enter")
        assert seen.services.has_focus
        assert seen.shows("only 'PIE'")
        await seen.press("slash", "x")
        assert not seen.services.shown
        assert seen.shows("nothing has 'x'")
        await seen.press("escape")
        assert len(seen.services.shown) == 3
        assert not seen.shows("only")
        # It goes back to the pane from which it was called; tab goes to the next.
        await seen.press("tab", "slash", "escape")
        assert seen.topics.has_focus
        await seen.press("slash", "s", "tab")
        assert seen.errors.has_focus
        assert seen.shows("only 's'")
        assert not seen.app.query_one("#filter").display


@on_asyncio
async def test_p_holds_the_screen_still_and_goes_on(mb_broker: Broker) -> None:
    async with screen(mb_broker.url) as seen:
        await seen.until(lambda: seen.services.shown)
        await seen.press("p")
        assert seen.shows("PAUSED")
        async with talking(mb_broker.url):
            await seen.until(lambda: len(list(seen.app.model.services(0.0))) == 3)
            await seen.pilot.pause(0.1)
            assert names(seen.services) == ["mb top"]
            await seen.press("p")
            assert len(seen.services.shown) == 3
            assert not seen.shows("PAUSED")


@on_asyncio
async def test_a_switches_the_audit_feed_off_and_on(mb_broker: Broker) -> None:
    async with talking(mb_broker.url) as client, screen(mb_broker.url) as seen:
        await seen.until(lambda: len(seen.topics.shown) == 4)
        await seen.press("a")
        await seen.until(lambda: seen.shows("audit feed off"))
        assert len(seen.topics.shown) == 4
        await seen.press("a")
        await seen.until(lambda: not seen.shows("audit feed off"))
        await ask(client, "pie.bake")
        await seen.until(lambda: seen.shows("NO_FLOUR"))


@on_asyncio
async def test_the_cursor_stays_with_its_row_and_enter_shows_all_of_it(mb_broker: Broker) -> None:
    async with talking(mb_broker.url) as client, screen(mb_broker.url, audit=False) as seen:
        await seen.until(lambda: len(seen.topics.shown) == 4)
        await seen.press("tab", "s", "s", "s", "s", "down", "j")
        row = seen.topics.current
        await client.subscribe("a.first", action="request", handler=lambda message: {})
        await client.subscribe("z.last", action="request", handler=lambda message: {})
        await seen.until(lambda: len(seen.topics.shown) == 6)
        assert seen.topics.current.id == row.id
        await seen.press("enter")
        assert isinstance(seen.app.screen, Dialog)
        assert seen.shows("subscribers")
        # Keys of the screen below do nothing meanwhile.
        await seen.press("tab")
        await seen.press("escape")
        assert not isinstance(seen.app.screen, Dialog)
        assert seen.topics.has_focus
        # There are no details of nothing.
        await seen.press("tab", "enter")
        assert not isinstance(seen.app.screen, Dialog)


@on_asyncio
async def test_more_rows_than_lines_are_scrolled_through(mb_broker: Broker) -> None:
    async with (
        MessageBrokerClient(mb_broker.url) as client,
        screen(mb_broker.url, audit=False) as seen,
    ):
        for number in range(30):
            letter = chr(ord("a") + number % 26)
            topic = f"topic.{letter}{number}"
            await client.subscribe(topic, action="request", handler=lambda message: {})
        await seen.until(lambda: len(seen.topics.shown) == 30)
        height = seen.topics.size.height - 1
        await seen.press("tab")
        await seen.until(lambda: seen.shows(f"topics 1-{height} of 30"))
        await seen.press("end")
        assert seen.shows(f"topics {30 - height + 1}-30 of 30")
        assert seen.topics.current is seen.topics.shown[-1]
        await seen.press("pageup", "up", "k")
        index = seen.topics.shown.index(seen.topics.current)
        assert 30 - height - 4 < index < 30 - height  # a page, and two more rows
        assert seen.shows(f"{seen.topics.current.topic} ")
        await seen.press("home", "pagedown", "j", "down")
        assert height <= seen.topics.shown.index(seen.topics.current) <= height + 2
        await seen.press("home")
        assert seen.topics.current is seen.topics.shown[0]
        assert seen.shows(f"topics 1-{height} of 30")
        # A larger terminal shows more of them.
        await seen.pilot.resize_terminal(120, 60)
        await seen.until(lambda: seen.topics.size.height - 1 > height)


@on_asyncio
async def test_a_question_mark_explains_keys_and_figures(mb_broker: Broker) -> None:
    async with screen(mb_broker.url) as seen:
        await seen.press("question_mark")
        assert seen.shows("sort by the next column")
        assert seen.shows("slows down a busy")
        await seen.press("q")
        assert not seen.shows("slows down a busy")


@on_asyncio
async def test_t_goes_through_the_themes(
    mb_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLORFGBG", "0;15")
    async with screen(mb_broker.url) as seen:
        assert seen.app.theme == "textual-light"
        for theme in ("ansi-dark", "ansi-light", "textual-dark", "textual-light"):
            await seen.press("t")
            assert seen.app.theme == theme
    monkeypatch.setenv("COLORFGBG", "15;0")
    async with screen(mb_broker.url) as seen:
        assert seen.app.theme == "textual-dark"
        seen.app.theme = "nord"
        await seen.press("t")
        assert seen.app.theme == "textual-dark"


@on_asyncio
async def test_q_ends_it_and_the_connection_with_it(mb_broker: Broker) -> None:
    async with MessageBrokerClient(mb_broker.url) as client:
        async with screen(mb_broker.url) as seen:
            await seen.until(lambda: seen.services.shown)
            await seen.press("q")
            await seen.until(lambda: not seen.app.is_running)
        async with asyncio.timeout(20):
            services = 2
            while services != 1:
                answer = await client.request("system.service.list", {})
                services = len(answer.payload["services"])


@on_asyncio
async def test_a_broker_that_was_killed_and_started_again_is_followed_again() -> None:
    broker = running("tcp://127.0.0.1:0")
    url = broker.__enter__().url
    async with screen(url) as seen:
        await seen.until(lambda: seen.services.shown)
        old = seen.services.shown[0].id
        await asyncio.to_thread(broker.__exit__, None, None, None)
        await seen.until(lambda: seen.shows("NO CONNECTION"))
        assert seen.services.shown
        broker = running(url)
        broker.__enter__()
        try:
            await seen.until(lambda: not seen.shows("NO CONNECTION"))
            await seen.until(lambda: seen.services.shown[0].id != old)
            async with talking(url) as client:
                await ask(client, "pie.bake")
                await seen.until(lambda: seen.shows("NO_FLOUR"))
            await seen.press("q")
            await seen.until(lambda: not seen.app.is_running)
        finally:
            await asyncio.to_thread(broker.__exit__, None, None, None)


@pytest.mark.parametrize("size", [(40, 12), (20, 8), (10, 3)])
@on_asyncio
async def test_a_small_terminal_shows_what_has_a_place(
    mb_broker: Broker, size: tuple[int, int]
) -> None:
    async with talking(mb_broker.url), screen(mb_broker.url, size=size) as seen:
        await seen.until(lambda: len(seen.services.shown) == 3)
        await seen.press("s", "down", "tab", "enter", "tab")
        # A click beside all rows and titles does nothing.
        region = seen.services.region
        await seen.pilot.click(offset=(min(region.right, size[0]) - 1, 0))
        assert all(len(line) <= size[0] for line in seen.lines())
        await seen.pilot.resize_terminal(80, 24)
        await seen.until(lambda: seen.shows("Bakery"))


@on_asyncio
async def test_a_click_below_the_rows_does_nothing(mb_broker: Broker) -> None:
    async with screen(mb_broker.url) as seen:
        await seen.until(lambda: seen.services.shown)
        bottom = seen.services.region.bottom - 1
        await seen.pilot.click(offset=(2, bottom), times=2)
        await seen.pilot.click(offset=(0, seen.services.region.y))
        await seen.pilot.click(offset=(79, seen.services.region.y + 1))
        assert not isinstance(seen.app.screen, Dialog)
        assert seen.shows("req/s▼")
