"""What the tests of Links over real sockets share."""

from __future__ import annotations

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_core.link import Link

of_tcp = pytest.mark.parametrize("kind", ["tcp"])
of_ws = pytest.mark.parametrize("kind", ["ws"])
of_plain = pytest.mark.parametrize("kind", ["tcp", "ws"])
of_framed = pytest.mark.parametrize("kind", ["tcp", "tls"])
BLOCK = b"x" * 10_000


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)


async def congest(link: Link) -> int:
    """Fill a link to a peer that does not read; gives how many messages that takes."""
    sent, written = 0, -1
    # Until nothing moves: on a busy machine, a while of its own says little.
    while written < link.messages_sent:
        written = link.messages_sent
        with anyio.move_on_after(0.05):
            while True:
                link.send(BLOCK)
                sent += 1
                if link.congested:
                    await link.drain()
    return sent
