"""A broker in a thread of its own, for programs and tests that have no event loop to spare."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from .broker import Broker

__all__ = ["running"]


@contextlib.contextmanager
def running(*urls: str, **options: Any) -> Iterator[Broker]:
    """Run a Broker in a thread while the block lasts; arguments as for Broker.

        with mb_broker.running("tcp://127.0.0.1:0") as broker:
            print(broker.url)

    Of the Broker, only `url`, `urls` and `url_of` are to be used from outside its thread.
    Raises what entering a Broker raises.
    """
    broker = Broker(*urls, **options)
    started: Future[asyncio.AbstractEventLoop] = Future()
    stop = asyncio.Event()

    async def serve() -> None:
        async with broker:
            started.set_result(asyncio.get_running_loop())
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="mb broker", daemon=True)
    thread.start()
    loop = started.result()
    try:
        yield broker
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has failed; its thread has said how
            loop.call_soon_threadsafe(stop.set)
        thread.join()
