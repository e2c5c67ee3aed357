"""`mb reply`: answer requests with a value, with themselves, or with a program's output."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import click
import msgspec
from anyio.abc import Process

from mb_core import (
    InternalError,
    InvalidRequestError,
    LocalProtocolError,
    MBError,
    Message,
    MessageTooLarge,
    RequestTimeoutError,
    ResponseError,
    Subscription,
)
from mb_core.client.stopping import interruptible

from .connect import hint, staying
from .endpoint import Endpoint
from .exits import Status, one_line
from .output import Output, clock, json_line, raw_json
from .stdin import json_payload

__all__ = ["Answer", "constant", "echo", "program", "run"]

Answer = Callable[[Message], Awaitable[msgspec.Raw]]
"""Gives the payload of the answer to a request, or raises a ResponseError."""

# Seconds for what was asked before it is stopped, as a client's drain_timeout.
_STOPPING = 5.0
# Of a program's output no more is read: no broker takes an answer that long.
_MAX_OUTPUT = 16 * 1024 * 1024


def constant(value: str) -> Answer:
    """Always the same JSON; raises UsageError if `value` is not JSON."""
    try:
        payload = json_payload(os.fsencode(value), text=False)
    except ValueError as error:
        raise click.UsageError(f"the value {error}") from None

    async def answer(message: Message) -> msgspec.Raw:
        return payload

    return answer


async def echo(message: Message) -> msgspec.Raw:
    """The request's own payload."""
    payload = raw_json(message.raw_payload)
    if payload is None:
        raise InvalidRequestError("the payload is not valid JSON: it can't be echoed")
    return payload


def program(command: str, timeout: int) -> Answer:
    """What a program prints, which must be JSON.

    It gets the payload on stdin, and MB_TOPIC and MB_REQUEST_ID in its environment; its stderr
    is ours.  An exit status other than 0, or a run longer than `timeout` milliseconds, is an error.
    Raises UsageError where there is no such program.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"can't read the program {command!r}: {error}") from None
    if not arguments or shutil.which(arguments[0]) is None:
        raise click.UsageError(f"there is no program {(arguments or [command])[0]!r}")
    name = os.path.basename(arguments[0])  # noqa: PTH119 - a name is not a path

    async def answer(message: Message) -> msgspec.Raw:
        environ = {"MB_TOPIC": message.topic, "MB_REQUEST_ID": message.request_id or ""}
        try:
            with anyio.fail_after(timeout / 1000):
                output = await _output_of(arguments, message.raw_payload, {**os.environ, **environ})
        except TimeoutError:
            raise RequestTimeoutError(f"{name} took longer than {timeout} ms") from None
        except OSError as error:
            raise InternalError(f"{name} can't be started: {error.strerror}") from None
        except _ExitError as error:
            raise InternalError(f"{name} {error}") from None
        if not output.strip():
            return msgspec.Raw(b"null")
        try:
            return json_payload(output, text=False)
        except ValueError as error:
            raise InternalError(f"what {name} printed {error}") from None

    return answer


async def run(
    endpoint: Endpoint,
    topic: str,
    answer: Answer,
    *,
    name: str,
    priority: float,
    concurrency: int,
    count: int | None,
    reconnect: bool,
    as_json: bool,
) -> Status | None:
    """Answer until `count` requests were answered, or forever; print each on a line.

    At Ctrl-C and SIGTERM it answers what it was asked before, and raises KeyboardInterrupt.
    """
    service = _Service(answer, Output(as_json), count)
    stopped: KeyboardInterrupt | None = None
    async with (
        staying(endpoint, name, f"Answers {topic}", reconnect=reconnect) as client,
        client.subscribe(topic, priority, action="request") as requests,
    ):
        hint(service.output, f"answering {topic} at {endpoint.shown}")
        async with anyio.create_task_group() as tasks:
            done = anyio.Event()

            async def serve() -> None:
                async with anyio.create_task_group() as servers:
                    for _ in range(concurrency):
                        servers.start_soon(service.serve, requests)
                done.set()

            async def stop() -> None:
                with anyio.move_on_after(_STOPPING), suppress(MBError):
                    await requests.unsubscribe()
                    await done.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(serve)
            try:
                await interruptible(done.wait, stop)
            except KeyboardInterrupt as error:
                stopped = error
                await stop()
    if stopped is not None:
        raise stopped
    return None


@dataclass(slots=True)
class _Service:
    answer: Answer
    output: Output
    left: int | None

    async def serve(self, requests: Subscription) -> None:
        """Answer one request after the other; several of these run side by side."""
        while self.left is None or self.left > 0:
            if self.left is not None:
                self.left -= 1
            try:
                message = await anext(requests)
            except StopAsyncIteration:
                return
            began = time.perf_counter()
            outcome = await self._respond(message)
            await self.output.write(self._line(message, outcome, time.perf_counter() - began))

    async def _respond(self, message: Message) -> msgspec.Raw | ResponseError:
        outcome: msgspec.Raw | ResponseError
        try:
            outcome = await self.answer(message)
        except ResponseError as error:
            outcome = error
        try:
            await message.respond(outcome)
        except (LocalProtocolError, MessageTooLarge) as error:
            outcome = InternalError(f"the answer can't be sent: {error}")
            await message.respond(outcome)
        return outcome

    def _line(self, message: Message, outcome: msgspec.Raw | ResponseError, seconds: float) -> str:
        payload = raw_json(message.raw_payload)
        if self.output.people:
            style = self.output.style
            asked = message.raw_payload if payload is None else bytes(payload)
            said = (
                style(one_line(str(outcome)), fg="red")
                if isinstance(outcome, ResponseError)
                else one_line(bytes(outcome).decode())
            )
            return (
                f"{style(clock(), dim=True)}  {style(message.topic, fg='cyan')}  "
                f"{one_line(asked.decode(errors='backslashreplace'))}  \N{RIGHTWARDS ARROW}  "
                f"{said}  {style(f'{seconds * 1000:.1f} ms', dim=True)}\n"
            )
        entry: dict[str, Any] = {
            "topic": message.topic,
            "requestId": message.request_id,
            "payload": payload,
            "ms": round(seconds * 1000, 3),
        }
        if isinstance(outcome, ResponseError):
            entry["error"] = {"code": outcome.code, "message": outcome.message}
        else:
            entry["answer"] = outcome
        return json_line(entry)


class _ExitError(Exception):
    """A program ended otherwise than with success; the text goes behind its name."""


async def _output_of(arguments: list[str], stdin: bytes, environ: dict[str, str]) -> bytes:
    """Run a program to its end; when cancelled, it is killed.  Raises OSError and _ExitError."""
    process = await anyio.open_process(arguments, stderr=None, env=environ)
    async with process:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_feed, process, stdin)
            output = bytearray()
            assert process.stdout is not None
            async for chunk in process.stdout:
                output += chunk
                if len(output) > _MAX_OUTPUT:
                    process.kill()
                    break
        status = await process.wait()
    if len(output) > _MAX_OUTPUT:
        raise _ExitError("prints without end")
    if status:
        raise _ExitError(
            f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        )
    return bytes(output)


async def _feed(process: Process, data: bytes) -> None:
    """Give a program its input; it need not read it."""
    assert process.stdin is not None
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.send(data)
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.aclose()
