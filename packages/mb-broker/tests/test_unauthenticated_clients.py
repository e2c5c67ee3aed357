"""Clients that have not authenticated keep no user waiting, and have none cut off."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mb_broker import Broker
from mb_broker.access import token_digest
from mb_core.authenticators import Credentials
from mb_core.plugins import Plugins
from mb_testing import until

from .faulty_links import FaultyPlugin, FaultyTransport

pytestmark = pytest.mark.anyio

TOKEN = Credentials(token="mb_station")
HEARTBEAT = b"request:system.heartbeat:1.0.0\n{}"


@pytest.fixture
def access(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    digest = token_digest("mb_station")
    path.write_text(f'[[users]]\nname = "station"\ntoken_sha256 = "{digest}"\nroles = []\n')
    return path


@pytest.fixture
def transport() -> FaultyTransport:
    return FaultyTransport()


@pytest.fixture
def plugins(transport: FaultyTransport) -> Plugins:
    plugins = Plugins()
    plugins.register(FaultyPlugin(transport), "faulty")
    return plugins


async def test_they_wait_for_their_turn_and_users_do_not(
    access: Path, plugins: Plugins, transport: FaultyTransport
) -> None:
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins, access=access):
            strangers = [transport.join(f"stranger {n}") for n in range(5)]
            user = transport.join("user", TOKEN)
            for link in (*strangers, user):
                link.congested = False
            greeted = user.unsent
            for stranger in strangers:
                stranger.handler.messages_received([HEARTBEAT])
            user.handler.messages_received([HEARTBEAT])
            assert user.unsent > greeted
            assert [stranger.unsent for stranger in strangers] == [greeted] * 5
            await until(lambda: all(stranger.unsent > greeted for stranger in strangers))


async def test_they_are_cut_off_before_any_user(
    access: Path, plugins: Plugins, transport: FaultyTransport
) -> None:
    with anyio.fail_after(5):
        async with Broker(
            "faulty://", plugins=plugins, access=access, max_unread_total=1_000_000
        ) as broker:
            strangers = [transport.join(f"stranger {n}") for n in range(3)]
            user = transport.join("user", TOKEN)
            user.unsent = 700_000
            for stranger in strangers:
                stranger.unsent = 150_000
            strangers[0].handler.messages_received([HEARTBEAT + b" " * 16_000])
            assert [stranger.aborted for stranger in strangers] == [1, 0, 0]
            assert user.aborted == 0
            assert broker.connections == 3
