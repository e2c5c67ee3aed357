"""The screen of `mb top` beside a broker with users."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mb_broker.access import token_digest
from mb_client import Broker, MessageBrokerClient, running

pytest.importorskip("textual")

from textual.app import App

from mb_tools.top.app import Dialog
from mb_tools.top.pane import Pane
from mb_tools.top.tables import SERVICES, SERVICES_WITH_USERS, Order

from .top_screen import names, on_asyncio, screen, talking

ACCESS = """
[roles.all]
subscribe = ["#"]
system = ["message", "metrics", "services", "topics"]

[anonymous]
roles = ["all"]

[roles.services]
respond = ["#"]
subscribe = ["#"]

[[users]]
name = "anna"
token_sha256 = "{}"
roles = ["services"]
"""


@on_asyncio
async def test_users_are_a_column_if_the_broker_has_any(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text(ACCESS.format(token_digest("mb_anna")), encoding="utf-8")
    path.chmod(0o600)
    with running("tcp://127.0.0.1:0", access=path) as broker:
        async with (
            MessageBrokerClient(broker.url, token="mb_anna") as client,
            screen(broker.url, size=(120, 30)) as seen,
        ):
            await client.register_service("Bakery", "Bakes")
            await seen.until(lambda: seen.shows("Bakery"))
            titles = next(line for line in seen.lines() if "req/s" in line)
            assert titles.split()[:3] == ["name", "user", "id"]
            assert "req/s▼" in titles  # as before it was known that there are users
            *_, bakery = (line.split() for line in seen.lines() if "Bakery" in line)
            *_, top = (line.split() for line in seen.lines() if "mb top" in line)
            assert bakery[1] == "anna"
            assert top[2] == "-"
            await seen.press("slash", "a", "n", "n", "a", "enter")
            await seen.until(lambda: names(seen.services) == ["Bakery"])
            await seen.press("escape", "enter")
            await seen.until(lambda: isinstance(seen.app.screen, Dialog))
            await seen.until(lambda: seen.shows("user "))


@on_asyncio
async def test_a_broker_without_users_has_no_such_column(mb_broker: Broker) -> None:
    async with talking(mb_broker.url), screen(mb_broker.url, size=(120, 30)) as seen:
        await seen.until(lambda: seen.shows("Bakery"))
        assert not seen.shows("user")


def test_another_table_keeps_the_order_if_it_can() -> None:
    async def check() -> None:
        pane = Pane(SERVICES)
        app: App[None] = App()
        async with app.run_test() as pilot:
            await app.mount(pane)
            pane.order = Order(7, descending=False)
            pane.change_table(SERVICES_WITH_USERS)
            assert pane.order == Order(8, descending=False)
            pane.order = Order(1, descending=True)  # by user
            pane.change_table(SERVICES)
            assert pane.order == SERVICES.order
            await pilot.pause()

    asyncio.run(check())


@on_asyncio
async def test_what_is_no_longer_allowed_is_no_longer_shown(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text(ACCESS.format(token_digest("mb_anna")), encoding="utf-8")
    path.chmod(0o600)
    with running("tcp://127.0.0.1:0", access=path) as broker:
        async with talking(broker.url, "mb_anna"), screen(broker.url, size=(160, 40)) as seen:
            await seen.until(lambda: seen.shows("Bakery") and seen.shows("pie.bake"))
            fewer = path.read_text().replace('["message", "metrics", "services", "topics"]', "[]")
            path.write_text(fewer)
            await asyncio.to_thread(broker.reload_access)
            for topic in ("metrics", "service.list", "topic.subscriptions", "message"):
                await seen.until(lambda topic=topic: f"system.{topic}" in seen.app.model.missing)
            await seen.until(lambda: seen.shows("no services: system.service.list FORBIDDEN"))
            await seen.until(lambda: not seen.shows("Bakery") and not seen.shows("pie.bake"))
