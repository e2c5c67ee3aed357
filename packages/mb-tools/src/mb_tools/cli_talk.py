"""The commands that send and receive: pub, sub, request, reply, ping."""

from __future__ import annotations

import click

from .endpoint import Endpoint, endpoint_options
from .exits import Status, run
from .options import (
    COUNT,
    SECONDS,
    PayloadCommand,
    count_option,
    json_option,
    patterns_argument,
    payload_argument,
    reconnect_option,
    timeout_option,
    topic_argument,
)

__all__ = ["ping", "pub", "reply", "request", "sub"]


@click.command(cls=PayloadCommand)
@topic_argument
@payload_argument
@click.option("--lines", is_flag=True, help="Publish each line of stdin as a message, as it comes.")
@click.option(
    "--confirm",
    is_flag=True,
    help="Wait for the broker to confirm; exit with status 1 if nobody is subscribed.",
)
@endpoint_options
def pub(
    endpoint: Endpoint, topic: str, payload: str | None, text: bool, lines: bool, confirm: bool
) -> Status | None:
    """Publish a message to everybody who subscribed to TOPIC.

    PAYLOAD is JSON, {} by default; - reads it from stdin.
    """
    if lines and payload not in (None, "-"):
        raise click.UsageError("--lines reads the payloads from stdin: remove PAYLOAD")
    if lines:
        from .pub import run_lines

        return run(run_lines, endpoint, topic, confirm=confirm, text=text)
    from .pub import run as run_pub
    from .stdin import read_payload

    return run(run_pub, endpoint, topic, read_payload(payload, text=text), confirm=confirm)


@click.command()
@patterns_argument
@count_option("messages")
@timeout_option("Stop after MS milliseconds; exit with 1 if fewer than COUNT messages came.")
@reconnect_option
@endpoint_options
@json_option
def sub(
    endpoint: Endpoint,
    patterns: tuple[str, ...],
    count: int | None,
    timeout: int | None,
    reconnect: bool,
    as_json: bool,
) -> Status | None:
    """Print what is published to topics that match a PATTERN.

    In a pattern, + is any one segment and a closing # any number of them; quote it for the shell.
    On a pipe each message is a line of JSON with topic, action, requestId and payload.
    """
    from .sub import run as run_sub

    return run(
        run_sub,
        endpoint,
        patterns,
        count=count,
        timeout=timeout,
        reconnect=reconnect,
        as_json=as_json,
        following=True,
        endless=count is None and timeout is None,
    )


@click.command(cls=PayloadCommand)
@topic_argument
@payload_argument
@timeout_option("The request's time limit.", default=30_000)
@endpoint_options
@json_option
def request(
    endpoint: Endpoint, topic: str, payload: str | None, text: bool, timeout: int, as_json: bool
) -> Status | None:
    """Send a request to TOPIC, and print the payload of the answer.

    PAYLOAD is JSON, {} by default; - reads it from stdin.
    An answer that is an error goes to stderr, as CODE: message, with exit status 1.
    """
    from .request import run as run_request
    from .stdin import read_payload

    content = read_payload(payload, text=text)
    return run(run_request, endpoint, topic, content, timeout=timeout, as_json=as_json)


@click.command()
@topic_argument
@click.option("--value", metavar="JSON", help="Answer with this JSON.")
@click.option("--echo", is_flag=True, help="Answer with the request's payload.")
@click.option(
    "--exec",
    "command",
    metavar="'PROGRAM ARGS'",
    help="Answer with the JSON that a program prints; it gets the payload on stdin.",
)
@timeout_option("How long a program may take for one answer.", default=30_000)
@click.option(
    "--name", default="mb reply", show_default=True, metavar="NAME", help="The service's name."
)
@click.option(
    "--priority",
    type=float,
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="Priority among services that answer TOPIC: the highest gets the requests.",
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
def reply(
    endpoint: Endpoint,
    topic: str,
    value: str | None,
    echo: bool,
    command: str | None,
    timeout: int,
    name: str,
    priority: float,
    concurrency: int,
    count: int | None,
    reconnect: bool,
    as_json: bool,
) -> Status | None:
    """Answer requests to TOPIC, which may be a pattern, and print each.

    With --exec the program runs once for each request, without a shell, with MB_TOPIC and
    MB_REQUEST_ID in its environment.  Its failure is an error answer.
    """
    if [value is not None, echo, command is not None].count(True) != 1:
        raise click.UsageError("give exactly one of --value, --echo and --exec: the answer")
    from . import reply as module

    if value is not None:
        answer = module.constant(value)
    else:
        answer = module.echo if command is None else module.program(command, timeout)
    return run(
        module.run,
        endpoint,
        topic,
        answer,
        name=name,
        priority=priority,
        concurrency=concurrency,
        count=count,
        reconnect=reconnect,
        as_json=as_json,
        following=True,
        endless=count is None,
    )


@click.command()
@count_option("heartbeats")
@click.option(
    "--interval",
    "-i",
    type=SECONDS,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between heartbeats.",
)
@timeout_option("How long to wait for each answer.", default=5_000)
@endpoint_options
@json_option
def ping(
    endpoint: Endpoint, count: int | None, interval: float, timeout: int, as_json: bool
) -> Status | None:
    """Measure how long a heartbeat takes to the broker and back.

    When it ends, by Ctrl-C or -n, it prints how many were answered and min/avg/max.  The exit
    status is 1 if none was.
    """
    from .ping import run as run_ping

    return run(
        run_ping,
        endpoint,
        count=count,
        interval=interval,
        timeout=timeout,
        as_json=as_json,
        following=True,
        endless=count is None,
    )
