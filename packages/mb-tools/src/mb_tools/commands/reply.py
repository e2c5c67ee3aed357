"""Answer requests to TOPIC, which may be a pattern, and print each of them.

With --exec the program runs once for each request, without a shell, with MB_TOPIC and
MB_REQUEST_ID in its environment. If it fails, the answer is an error.
"""

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
from mb_core.signals import interruptible

from ..connect import Endpoint, endpoint_options, following, hint
from ..output import Output
from ..payloads import json_line, json_payload, payload_text, raw_json
from ..runner import asynchronous
from ..shared_options import COUNT, count_option, json_option, reconnect_option, timeout_option
from ..text import clock, one_line

Answer = Callable[[Message], Awaitable[msgspec.Raw]]
"""Returns the payload that answers a request, or raises a ResponseError."""

# Seconds to finish pending requests before stopping, like a client's drain_timeout.
_STOPPING = 5.0
# The most of a program's output that is read: no broker accepts a longer answer.
_MAX_OUTPUT = 16 * 1024 * 1024


@click.command(help=__doc__)
@click.argument("topic")
@click.option("--value", metavar="JSON", help="Answer with this JSON.")
@click.option("--echo", is_flag=True, help="Answer with the request's payload.")
@click.option(
    "--exec",
    "program",
    metavar="'PROGRAM ARGS'",
    help="Answer with the JSON that a program prints; it reads the payload from stdin.",
)
@timeout_option("Time limit for a program to answer one request.", default=30_000)
@click.option(
    "--name", default="mb reply", show_default=True, metavar="NAME", help="Name of the service."
)
@click.option(
    "--priority",
    type=float,
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="Priority among services that answer TOPIC; the highest gets the requests.",
)
@click.option(
    "--concurrency",
    type=COUNT,
    default=1,
    show_default=True,
    metavar="COUNT",
    help="Answer up to COUNT requests at a time.",
)
@count_option("requests")
@reconnect_option
@endpoint_options
@json_option
@asynchronous(endless=lambda given: given["count"] is None)
async def command(
    endpoint: Endpoint,
    topic: str,
    value: str | None,
    echo: bool,
    program: str | None,
    timeout: int,
    name: str,
    priority: float,
    concurrency: int,
    count: int | None,
    reconnect: bool,
    as_json: bool,
) -> None:
    if [value is not None, echo, program is not None].count(True) != 1:
        raise click.UsageError("give exactly one of --value, --echo and --exec")
    if value is not None:
        answer = constant(value)
    else:
        answer = echo_payload if program is None else output_of(program, timeout)
    responder = _Responder(answer, Output(as_json), count)
    stopped: KeyboardInterrupt | None = None
    async with (
        following(endpoint, name, f"Answers {topic}", reconnect=reconnect) as client,
        client.subscribe(topic, priority, action="request") as requests,
    ):
        hint(responder.output, f"answering {topic} at {endpoint.shown}")
        async with anyio.create_task_group() as tasks:
            done = anyio.Event()

            async def serve() -> None:
                async with anyio.create_task_group() as workers:
                    for _ in range(concurrency):
                        workers.start_soon(responder.serve, requests)
                done.set()

            async def stop() -> None:
                with anyio.move_on_after(_STOPPING), suppress(MBError):
                    await requests.unsubscribe()
                    await done.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(serve)
            try:
                await interruptible(done.wait, stop)
            except KeyboardInterrupt as error:  # on SIGTERM too, finish pending requests first
                stopped = error
                await stop()
    if stopped is not None:
        raise stopped


def constant(value: str) -> Answer:
    """Answer with the same JSON every time; raises UsageError if `value` is not valid JSON."""
    try:
        payload = json_payload(os.fsencode(value), text=False)
    except ValueError as error:
        raise click.UsageError(f"the value {error}") from None

    async def answer(message: Message) -> msgspec.Raw:
        return payload

    return answer


async def echo_payload(message: Message) -> msgspec.Raw:
    """Answer with the request's payload."""
    payload = raw_json(message.raw_payload)
    if payload is None:
        raise InvalidRequestError("the payload is not valid JSON, so it can't be echoed")
    return payload


def output_of(command: str, timeout: int) -> Answer:
    """Answer with what a program prints, which must be JSON.

    The program gets the payload on stdin, and MB_TOPIC and MB_REQUEST_ID in its environment; it
    inherits our stderr. An exit status other than 0, or a run longer than `timeout` milliseconds,
    is an error. Raises UsageError if the program does not exist.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"can't read the program {command!r}: {error}") from None
    if not arguments or shutil.which(arguments[0]) is None:
        raise click.UsageError(f"there is no program {(arguments or [command])[0]!r}")
    name = os.path.basename(arguments[0])  # noqa: PTH119 - a name is not a path

    async def answer(message: Message) -> msgspec.Raw:
        ids = {"MB_TOPIC": message.topic, "MB_REQUEST_ID": message.request_id or ""}
        environ = {**os.environ, **ids}
        try:
            with anyio.fail_after(timeout / 1000):
                output, status = await _run_program(arguments, message.raw_payload, environ)
        except TimeoutError:
            raise RequestTimeoutError(f"{name} took longer than {timeout} ms") from None
        except OSError as error:
            raise InternalError(f"{name} can't be started: {error.strerror}") from None
        if len(output) > _MAX_OUTPUT:
            raise InternalError(f"{name} prints without end")
        if status:
            end = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
            raise InternalError(f"{name} {end}")
        if not output.strip():
            return msgspec.Raw(b"null")
        try:
            return json_payload(output, text=False)
        except ValueError as error:
            raise InternalError(f"what {name} printed {error}") from None

    return answer


@dataclass(slots=True)
class _Responder:
    answer: Answer
    output: Output
    left: int | None

    async def serve(self, requests: Subscription) -> None:
        """Answer requests one by one; several tasks may run this at once."""
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
        if self.output.people:
            style = self.output.style
            shown = (
                style(one_line(str(outcome)), fg="red")
                if isinstance(outcome, ResponseError)
                else one_line(bytes(outcome).decode())
            )
            return (
                f"{style(clock(), dim=True)}  {style(message.topic, fg='cyan')}  "
                f"{payload_text(message.raw_payload)}  \N{RIGHTWARDS ARROW}  "
                f"{shown}  {style(f'{seconds * 1000:.1f} ms', dim=True)}\n"
            )
        entry: dict[str, Any] = {
            "topic": message.topic,
            "requestId": message.request_id,
            "payload": raw_json(message.raw_payload),
            "ms": round(seconds * 1000, 3),
        }
        if isinstance(outcome, ResponseError):
            entry["error"] = {"code": outcome.code, "message": outcome.message}
        else:
            entry["answer"] = outcome
        return json_line(entry)


async def _run_program(
    arguments: list[str], stdin: bytes, environ: dict[str, str]
) -> tuple[bytes, int]:
    """Run a program and return its output and status; raises OSError.

    The program is killed if this is cancelled, or if it prints more than _MAX_OUTPUT.
    """
    with anyio.CancelScope(shield=True):  # asyncio loses a process whose start is cancelled
        process = await anyio.open_process(arguments, stderr=None, env=environ)
    async with process:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_write_input, process, stdin)
            output = bytearray()
            assert process.stdout is not None
            async for chunk in process.stdout:
                output += chunk
                if len(output) > _MAX_OUTPUT:
                    process.kill()
                    break
        return bytes(output), await process.wait()


async def _write_input(process: Process, data: bytes) -> None:
    """Write a program's input; the program may not read it."""
    assert process.stdin is not None
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.send(data)
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.aclose()
