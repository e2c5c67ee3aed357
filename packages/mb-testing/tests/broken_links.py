"""Whole Links with a bug each, which the suite has to find; see broken_wires.py."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from anyio.lowlevel import checkpoint

from mb_broker.memory_transport import MemoryTransport
from mb_core import URL, ConnectError, ConnectionLost
from mb_core.link import Accept, Link, LinkHandler, Listener
from mb_testing import TransportSuite

# Links


class BrokenLink:
    """Without a bug of its own: passes all on to another Link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)

    def handler(self, handler: LinkHandler) -> LinkHandler:
        return handler


class BrokenTransport:
    """memory://, with Links of a class of the test's."""

    scheme = "memory"

    def __init__(self, link: type[BrokenLink] = BrokenLink) -> None:
        self.inner = MemoryTransport()
        self.make = link

    async def connect(self, url: URL, accept: Accept, **settings: Any) -> Link:
        made: list[Any] = []

        def keeping(link: Link) -> LinkHandler:
            made.append(self.make(link))
            return self._accepting(accept, made[-1])

        await self.inner.connect(url, keeping, **settings)
        return made[0]  # type: ignore[no-any-return]

    async def listen(self, url: URL, accept: Accept, **settings: Any) -> Listener:
        return await self.inner.listen(
            url, lambda link: self._accepting(accept, self.make(link)), **settings
        )

    def _accepting(self, accept: Accept, link: BrokenLink) -> LinkHandler:
        return link.handler(accept(link))  # type: ignore[arg-type]


class MemorySuite(TransportSuite):
    time_limit = 3.0

    def url(self, tmp_path: Path) -> str:
        return f"memory://{tmp_path.parent.name}-{tmp_path.name}"


class TestNothing(MemorySuite):
    """The one that has to pass."""

    transport = BrokenTransport()


class Reverses(BrokenLink):
    def send_many(self, messages: list[bytes]) -> None:
        self.link.send_many(messages[::-1])


class TestReverses(MemorySuite):
    transport = BrokenTransport(Reverses)


class StripsMessages(BrokenLink):
    def send_many(self, messages: list[bytes]) -> None:
        self.link.send_many([message.strip() for message in messages])


class TestStripsMessages(MemorySuite):
    transport = BrokenTransport(StripsMessages)


class LosesFirstMessages(BrokenLink):
    """Those that are sent from within accept."""

    accepted = False

    def send(self, message: bytes) -> None:
        if self.accepted:
            self.link.send(message)

    def handler(self, handler: LinkHandler) -> LinkHandler:
        self.accepted = True
        return handler


class TestLosesFirstMessages(MemorySuite):
    transport = BrokenTransport(LosesFirstMessages)


class IsNobody(BrokenLink):
    peer = ""


class TestIsNobody(MemorySuite):
    transport = BrokenTransport(IsNobody)


class Passing:
    """A LinkHandler that passes all on to another one."""

    def __init__(self, handler: LinkHandler) -> None:
        self.inner = handler

    def messages_received(self, messages: list[bytes]) -> None:
        self.inner.messages_received(messages)

    def link_lost(self, error: Any) -> None:
        self.inner.link_lost(error)


class OneByOne(Passing):
    def messages_received(self, messages: list[bytes]) -> None:
        for message in messages:
            self.inner.messages_received([message])


class DeliversOneByOne(BrokenLink):
    def handler(self, handler: LinkHandler) -> LinkHandler:
        return OneByOne(handler)


class TestDeliversOneByOne(MemorySuite):
    transport = BrokenTransport(DeliversOneByOne)


class LostTwice(Passing):
    def link_lost(self, error: Any) -> None:
        self.inner.link_lost(error)
        self.inner.link_lost(error)


class IsLostTwice(BrokenLink):
    def handler(self, handler: LinkHandler) -> LinkHandler:
        return LostTwice(handler)


class TestIsLostTwice(MemorySuite):
    transport = BrokenTransport(IsLostTwice)


class Blaming(Passing):
    def link_lost(self, error: Any) -> None:
        self.inner.link_lost(error or ConnectionLost("it ended", sent=True))


class BlamesAnOrderlyEnd(BrokenLink):
    def handler(self, handler: LinkHandler) -> LinkHandler:
        return Blaming(handler)


class TestBlamesAnOrderlyEnd(MemorySuite):
    transport = BrokenTransport(BlamesAnOrderlyEnd)


class Raising(Passing):
    def link_lost(self, error: Any) -> None:
        self.inner.link_lost(error)
        raise KeyError("a bug")


class RaisesAtItsEnd(BrokenLink):
    def handler(self, handler: LinkHandler) -> LinkHandler:
        return Raising(handler)


class TestRaisesAtItsEnd(MemorySuite):
    transport = BrokenTransport(RaisesAtItsEnd)


class CountsWhatItQueued(BrokenLink):
    messages_sent = 0

    def send(self, message: bytes) -> None:
        self.messages_sent += 1
        self.link.send(message)


class TestCountsWhatItQueued(MemorySuite):
    transport = BrokenTransport(CountsWhatItQueued)


class NeverMoves(BrokenLink):
    progress = 0


class TestNeverMoves(MemorySuite):
    transport = BrokenTransport(NeverMoves)


class IsNeverCongested(BrokenLink):
    congested = False


class TestIsNeverCongested(MemorySuite):
    transport = BrokenTransport(IsNeverCongested)


class DrainsForNothing(BrokenLink):
    async def drain(self) -> None:
        pass


class TestDrainsForNothing(MemorySuite):
    transport = BrokenTransport(DrainsForNothing)


class AbortsWhenClosing(BrokenLink):
    def close(self, reason: str = "") -> None:
        self.link.abort()


class TestAbortsWhenClosing(MemorySuite):
    transport = BrokenTransport(AbortsWhenClosing)


class ClosesOnce(BrokenLink):
    closed = False

    def close(self, reason: str = "") -> None:
        if self.closed:
            raise ConnectionLost("it is closed already", sent=False)
        self.closed = True
        self.link.close(reason)


class TestClosesOnce(MemorySuite):
    transport = BrokenTransport(ClosesOnce)


class AbortsOneSideOnly(BrokenLink):
    def abort(self) -> None:
        self.link._lose(None)


class TestAbortsOneSideOnly(MemorySuite):
    transport = BrokenTransport(AbortsOneSideOnly)


class SendsIntoTheVoid(BrokenLink):
    def send(self, message: bytes) -> None:
        with contextlib.suppress(ConnectionLost):
            self.link.send(message)


class TestSendsIntoTheVoid(MemorySuite):
    transport = BrokenTransport(SendsIntoTheVoid)


class NeverSaysThatItIsClosed(BrokenLink):
    async def wait_closed(self) -> None:
        pass


class TestNeverSaysThatItIsClosed(MemorySuite):
    transport = BrokenTransport(NeverSaysThatItIsClosed)


class Closing(Passing):
    """Ends for good only when nothing came before."""

    def messages_received(self, messages: list[bytes]) -> None:
        try:
            self.inner.messages_received(messages)
        finally:
            self.inner.messages_received([])


class CallsWithoutMessages(BrokenLink):
    def handler(self, handler: LinkHandler) -> LinkHandler:
        return Closing(handler)


class TestCallsWithoutMessages(MemorySuite):
    transport = BrokenTransport(CallsWithoutMessages)


class ForgetsItsMessages(BrokenLink):
    """A message in ten does not arrive."""

    count = 0

    def send(self, message: bytes) -> None:
        self.count += 1
        if self.count % 10:
            self.link.send(message)


class TestForgetsItsMessages(MemorySuite):
    transport = BrokenTransport(ForgetsItsMessages)


class MixesUpConnections(BrokenTransport):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[Any] = []

    def _accepting(self, accept: Accept, link: BrokenLink) -> LinkHandler:
        handler = super()._accepting(accept, link)
        self.links.append(handler)
        return self.links[len(self.links) // 4 * 2] if len(self.links) > 4 else handler


class TestMixesUpConnections(MemorySuite):
    transport = MixesUpConnections()


# Connecting and listening


class RaisesWhereNobodyIs(BrokenTransport):
    async def connect(self, url: URL, accept: Accept, **settings: Any) -> Link:
        try:
            return await super().connect(url, accept, **settings)
        except ConnectError:
            raise KeyError(url.host) from None


class TestRaisesWhereNobodyIs(MemorySuite):
    transport = RaisesWhereNobodyIs()


class DoesNotSayWhere(BrokenTransport):
    async def connect(self, url: URL, accept: Accept, **settings: Any) -> Link:
        try:
            return await super().connect(url, accept, **settings)
        except ConnectError:
            raise ConnectError("no connection") from None


class TestDoesNotSayWhere(MemorySuite):
    transport = DoesNotSayWhere()


class LivesOnWhenCancelled(BrokenTransport):
    async def connect(self, url: URL, accept: Accept, **settings: Any) -> Link:
        link = await super().connect(url, accept, **settings)
        await checkpoint()
        return link


class TestLivesOnWhenCancelled(MemorySuite):
    transport = LivesOnWhenCancelled()


class AcceptsForEver(BrokenTransport):
    async def listen(self, url: URL, accept: Accept, **settings: Any) -> Listener:
        listener = await super().listen(url, accept, **settings)

        async def close() -> None:
            pass

        listener.close = close  # type: ignore[method-assign]
        return listener


class TestAcceptsForEver(MemorySuite):
    transport = AcceptsForEver()


class EndsItsLinksWithTheListener(BrokenTransport):
    async def listen(self, url: URL, accept: Accept, **settings: Any) -> Listener:
        links: list[Link] = []

        def keeping(link: Link) -> LinkHandler:
            links.append(link)
            return accept(link)

        listener = await super().listen(url, keeping, **settings)
        stop = listener.close

        async def close() -> None:
            await stop()
            for link in links:
                link.close()

        listener.close = close  # type: ignore[method-assign]
        return listener


class TestEndsItsLinksWithTheListener(MemorySuite):
    transport = EndsItsLinksWithTheListener()


class TakesOverUrls(BrokenTransport):
    async def listen(self, url: URL, accept: Accept, **settings: Any) -> Listener:
        self.inner._listeners.pop(url.host, None)
        return await super().listen(url, accept, **settings)


class TestTakesOverUrls(MemorySuite):
    transport = TakesOverUrls()


class HasOnePlace(BrokenTransport):
    """Whatever the URL, the last one that listens gets the client."""

    async def connect(self, url: URL, accept: Accept, **settings: Any) -> Link:
        last = [*self.inner._listeners] or [url.host]
        return await super().connect(URL("memory", last[0], None, ""), accept, **settings)


class TestHasOnePlace(MemorySuite):
    transport = HasOnePlace()
