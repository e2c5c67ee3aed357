"""Connecting and listening: URLs that are free, in use or left by a killed broker."""

from __future__ import annotations

from contextlib import ExitStack

import anyio
import pytest

from mb_core.errors import ConnectError
from mb_core.link import Link, SocketAddress
from mb_core.transport import Sockets
from mb_core.url import URL
from mb_core.wire import WireState

from ..links import LinkEnd
from .check_runner import on_loops, without_io
from .link_checks import Echo, expect_answer, expect_end, expect_in_time
from .links_under_test import Network
from .raw_peer import RawListener, RawPeer, in_thread
from .requirements import (
    BAD_URL,
    CANCELLED_CONNECT,
    FOUND,
    IN_USE,
    NO_CONNECTION,
    RELEASED,
    STALE,
    ContractBroken,
    expect,
    violation,
)
from .settings import Settings
from .wires import WirePair

__all__ = ["Listening", "SocketListening", "StreamListening"]


class Listening(Settings):
    """Where a Listener is, a client connects; where there is none, it gets an error."""

    @without_io
    def test_it_is_found_by_its_scheme_when_it_is_installed(self) -> None:
        from mb_core.plugins import installed_plugins

        scheme = self.transport.scheme
        try:
            found = installed_plugins().transport(scheme)
        except Exception as error:
            raise violation(FOUND, f"{scheme}:// is not found: {error}") from error
        same = type(found) is type(self.transport) and found.scheme == scheme
        expect(FOUND, same, f"{scheme}:// is {found!r}")

    @on_loops
    async def test_where_nobody_listens_connecting_says_where(self, net: Network) -> None:
        server = await net.listen()
        await server.listener.close()
        await _expect_nobody(net, server.url)

    @on_loops
    async def test_a_closed_listener_accepts_no_more_and_its_links_live_on(
        self, net: Network
    ) -> None:
        server = await net.listen(Echo)
        client = await net.connect(server.url)
        await server.accepted()
        await server.listener.close()
        await _expect_nobody(net, server.url)
        await expect_answer(net, RELEASED, client)

    @on_loops
    async def test_the_url_of_a_closed_listener_is_free(self, net: Network) -> None:
        server = await net.listen()
        for _ in range(3):
            await server.listener.close()
            try:
                server = await net.listen(Echo, url=server.url)
            except ConnectError as error:
                raise violation(RELEASED, f"listening at it again failed: {error}") from error
            await expect_answer(net, RELEASED, await net.connect(server.url))

    @on_loops
    async def test_a_url_in_use_is_an_error_and_its_listener_stays(self, net: Network) -> None:
        server = await net.listen(Echo)
        for _ in range(2):
            try:
                await net.listen(url=server.url)
            except ConnectError as error:
                expect(IN_USE, _named_part(server.url) in str(error), f"the error says: {error}")
            except Exception as error:
                raise violation(IN_USE, f"{error!r} was raised") from error
            else:
                raise violation(IN_USE, "nothing was raised")
        try:
            client = await net.connect(server.url)
        except ConnectError as error:
            raise violation(IN_USE, f"the first Listener can't be reached now: {error}") from error
        await expect_answer(net, IN_USE, client)

    @on_loops
    async def test_two_listeners_at_two_places_are_kept_apart(self, net: Network) -> None:
        servers = [await net.listen(url=net.new_url(name)) for name in ("one", "two")]
        for number, server in enumerate(servers):
            client = await net.connect(server.url)
            client.link.send(b"%d" % number)
            came = await (await server.accepted()).receive()
            expect(RELEASED, came == b"%d" % number, f"{came!r} came at {server.url}")

    @on_loops
    async def test_a_connect_may_be_cancelled_at_any_time(self, net: Network) -> None:
        server = await net.listen(Echo)
        for turns in range(10):
            await _cancel_connect(net, server.url, turns)
        # Accepted behind all of them.
        await expect_answer(net, CANCELLED_CONNECT, await net.connect(server.url))
        for end in server.ends:
            if not end.batches:
                await expect_end(net, CANCELLED_CONNECT, end)


class StreamListening(Settings):
    """Of transports over byte streams: connecting is cancelled during the handshake."""

    @on_loops
    async def test_a_connect_that_is_cancelled_in_its_handshake_closes_the_stream(
        self, net: Network
    ) -> None:
        fresh = WirePair(self, ready=False).client.state
        if fresh is WireState.OPEN and net.client_context is None:
            pytest.skip("it has no handshake")
        with ExitStack() as stack:
            listener = RawListener(net, stack)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(net.connect, listener.url)
                peer: RawPeer = await in_thread(listener.accept)
                await in_thread(peer.sock.recv, 1)  # of the handshake, which is never answered
                tasks.cancel_scope.cancel()
            try:
                await in_thread(peer.receive_all)
            except TimeoutError as error:
                raise violation(CANCELLED_CONNECT, "the stream stays open") from error


class SocketListening(Settings):
    """Of transports with sockets of their own; mb_core has those for hosts and ports."""

    @on_loops
    async def test_what_a_killed_broker_left_is_no_obstacle(self, net: Network) -> None:
        sockets = own_sockets(self)
        url = net.new_url()
        sockets.listen(url).close()  # and no release, as when the process is killed
        await _expect_refusal(net, url)
        try:
            server = await net.listen(Echo, url=url)
        except ConnectError as error:
            raise violation(STALE, f"listening there failed: {error}") from error
        await expect_answer(net, STALE, await net.connect(server.url))

    @without_io
    def test_a_url_without_a_place_is_a_connect_error(self) -> None:
        sockets = own_sockets(self)
        for url in (URL(self.transport.scheme, "", None, ""), URL("x", "host", 1, "")):
            try:
                address = sockets.address(url)
            except ConnectError:
                continue
            except Exception as error:
                raise violation(BAD_URL, f"for {url}, {error!r} was raised") from error
            expect(BAD_URL, isinstance(address, SocketAddress), f"for {url}, it gave {address!r}")


def own_sockets(suite: Settings) -> Sockets:
    transport = suite.over_streams
    assert transport is not None
    assert transport.sockets is not None  # or its tests are left out
    return transport.sockets


def _named_part(url: URL) -> str:
    """The part of a URL that an error names at least."""
    return url.path if not url.host else url.host if url.port is None else f"{url.host}:{url.port}"


async def _cancel_connect(net: Network, url: URL, turns: int) -> None:
    """Cancel after a number of turns of the loop, and end what was connected by then."""
    made: list[LinkEnd] = []
    connected: list[Link] = []

    def accept(link: Link) -> LinkEnd:
        made.append(LinkEnd(link))
        return made[-1]

    async def connect() -> None:
        connected.append(await net.dial(url, accept))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        for _ in range(turns):
            await net.backend.checkpoint()
        tasks.cancel_scope.cancel()
    for link in connected:
        link.abort()
    for end in made:
        await expect_end(net, CANCELLED_CONNECT, end)


async def _expect_nobody(net: Network, url: URL) -> None:
    __tracebackhide__ = True
    found = f"connecting to {url} never ended"
    try:
        await expect_in_time(net, NO_CONNECTION, lambda: net.connect(url), found)
    except ConnectError as error:
        expect(NO_CONNECTION, _named_part(url) in str(error), f"the error says: {error}")
    except ContractBroken:
        raise
    except Exception as error:
        raise violation(NO_CONNECTION, f"{error!r} was raised") from error
    else:
        raise violation(NO_CONNECTION, f"a connection to {url} came about")


async def _expect_refusal(net: Network, url: URL) -> None:
    try:
        await net.connect(url)
    except ConnectError:
        return
    raise violation(NO_CONNECTION, f"a connection to {url} came about, where nobody listens")
