"""What the tests of the command line share: a broker, `mb` as a process, a client beside it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio
import anyio.from_thread
import pytest
from click.testing import CliRunner

from mb_client import Broker, MessageBrokerClient
from mb_tools.cli import main

# Seconds after which a process that should have ended counts as hanging.
PATIENCE = 60


class Outcome(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Mb:
    """Runs `mb` against one broker, in this process or in one of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "PYTHONUNBUFFERED")
        } | {"MB_URL": url}

    def __call__(self, *arguments: str, stdin: str | bytes = b"", **environ: str) -> Outcome:
        """Run it until it exits, in this process, if a separate process adds nothing."""
        runner = CliRunner(env={"MB_URL": self.url} | environ)
        result = runner.invoke(main, arguments, input=stdin, prog_name="mb")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    def process(self, *arguments: str, stdin: str | bytes = b"", **environ: str) -> Outcome:
        """Run it until it exits, in a separate process."""
        done = subprocess.run(
            [sys.executable, "-m", "mb_tools", *arguments],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=self.environ | environ,
            timeout=PATIENCE,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextmanager
    def started(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Run it beside the test; it is killed where the block ends before it."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | options
        with subprocess.Popen(
            [sys.executable, "-m", "mb_tools", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ,
            **options,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def on_terminal(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run it with a terminal for stdin, stdout and stderr; its status and what was shown."""
        outer, inner = pty.openpty()
        try:
            with subprocess.Popen(
                [sys.executable, "-m", "mb_tools", *arguments],
                stdin=inner,
                stdout=inner,
                stderr=inner,
                env=self.environ | {"TERM": "xterm", "COLUMNS": "120"} | environ,
            ) as process:
                os.close(inner)
                shown = b""
                while True:
                    try:
                        chunk = os.read(outer, 65_536)
                    except OSError:  # Linux's way to say that nobody holds the other end
                        break
                    if not chunk:
                        break
                    shown += chunk
                status = process.wait(PATIENCE)
        finally:
            os.close(outer)
        return status, shown.decode().replace("\r\n", "\n")


class Peer:
    """A client of the same broker, for tests that have no event loop."""

    def __init__(self, client: MessageBrokerClient, portal: anyio.from_thread.BlockingPortal):
        self.client = client
        self._portal = portal

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call an async function in the client's event loop, within PATIENCE."""

        async def limited() -> Any:
            with anyio.fail_after(PATIENCE):
                return await function(*arguments, **options)

        return self._portal.call(limited)

    def publish(self, topic: str, payload: Any) -> None:
        self.call(self.client.publish, topic, payload, confirm=True)

    def request(self, topic: str, payload: Any, **options: Any) -> Any:
        return self.call(self.client.request, topic, payload, **options).payload

    def answer(self, topic: str, handler: Callable[..., Any]) -> None:
        """Answer requests to `topic` with what `handler` gives."""

        async def subscribe() -> None:
            await self.client.subscribe(topic, action="request", handler=handler)

        self.call(subscribe)

    def event(self) -> anyio.Event:
        """An event of the client's event loop."""

        async def make() -> anyio.Event:
            return anyio.Event()

        made: anyio.Event = self.call(make)
        return made

    def wait_for_service(self, name: str) -> None:
        """Wait until a service is registered as `name`."""

        async def registered() -> None:
            while True:
                answer = await self.client.request("system.service.list", {})
                if any(service["name"] == name for service in answer.payload["services"]):
                    return

        self.call(registered)

    def wait_for_subscriber(self, topic: str, action: str = "publish") -> None:
        """Wait until somebody is subscribed to `topic`."""
        self.call(until_subscribed, self.client, topic, action)


async def until_subscribed(
    client: MessageBrokerClient, topic: str, action: str = "publish"
) -> None:
    """Wait until the broker knows a subscriber of `topic`."""
    while True:
        listed = (await client.request("system.topic.list", {})).payload["topics"]
        if any((entry["topic"], entry["action"]) == (topic.lower(), action) for entry in listed):
            return


@pytest.fixture
def url(mb_broker: Broker) -> str:
    """Where a broker of the test's own listens."""
    return mb_broker.url_of("tcp")


@pytest.fixture
def mb(url: str) -> Mb:
    return Mb(url)


@contextmanager
def connected(url: str) -> Iterator[Peer]:
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        # It waits for no handler that hangs on purpose.
        portal.wrap_async_context_manager(MessageBrokerClient(url, drain_timeout=100)) as client,
    ):
        yield Peer(client, portal)


@pytest.fixture
def peer_of() -> Any:
    """`with peer_of(url) as peer`: a client of any broker."""
    return connected


@pytest.fixture
def peer(url: str) -> Iterator[Peer]:
    with connected(url) as made:
        yield made


@pytest.fixture
def waiting_for_subscriber() -> Any:
    """`until_subscribed`, for tests that run in an event loop."""
    return until_subscribed
