"""The screen of `mb top`, as a user sees it, and a broker's services beside it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from mb_client import Message, MessageBrokerClient, ResponseError

pytest.importorskip("textual")

from textual.pilot import Pilot

from mb_tools.connect import Endpoint
from mb_tools.top.app import TopApp
from mb_tools.top.model import Model
from mb_tools.top.pane import Pane
from mb_tools.top.poller import Poller


def on_asyncio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on asyncio, once."""

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **options), 60))

    return run


class Screen:
    """A running TopApp, and what a user sees and does."""

    def __init__(self, app: TopApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot
        self.services, self.topics, self.errors = app.panes

    def lines(self) -> list[str]:
        """The text on the screen."""
        screen = self.app.screen
        strips = screen._compositor.render_strips()
        return [strip.text.rstrip() for strip in strips]

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.lines())

    async def until(self, fact: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(20):
                while not fact():
                    await self.pilot.pause(0.01)
        except TimeoutError:
            raise AssertionError("the screen is:\n" + "\n".join(self.lines())) from None

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def click(self, pane: Pane, line: int, times: int = 1) -> None:
        """Click on a line of a pane, wherever it is by now; line 0 has the titles."""
        place = pane.content_region.offset - pane.region.offset + (2, line)
        assert await self.pilot.click(pane, offset=place, times=times)


@contextlib.asynccontextmanager
async def screen(
    url: str, *, size: tuple[int, int] = (80, 24), audit: bool = True
) -> AsyncIterator[Screen]:
    model = Model()
    poller = Poller(Endpoint(url), model, audit=audit, interval=0.05)
    app = TopApp(poller, model, interval=0.05)
    async with poller.client, app.run_test(size=size) as pilot:
        yield Screen(app, pilot)


@contextlib.asynccontextmanager
async def talking(url: str, token: str | None = None) -> AsyncIterator[MessageBrokerClient]:
    """A service that answers three topics, one of them with an error; gives a client."""

    def fail(message: Message) -> None:
        raise ResponseError("out of flour", code="NO_FLOUR")

    async with (
        MessageBrokerClient(url, token=token) as service,
        MessageBrokerClient(url, token=token) as client,
    ):
        await service.register_service("Bakery", "Bakes")
        await client.register_service("Shop", "Sells")
        for topic in ("bread.bake", "cake.bake"):
            await service.subscribe(topic, action="request", handler=lambda message: {})
        await service.subscribe("pie.bake", action="request", handler=fail)
        await service.subscribe("bread.#", handler=lambda message: None)
        yield client


def names(pane: Pane) -> list[str]:
    return [row.name for row in pane.shown]
