"""Print new entries of the broker's log as they are written."""

from __future__ import annotations

import json
from datetime import datetime
from typing import get_args

import click

from mb_core import LogLevel, Message, RemoteProtocolError

from ..connect import Endpoint, endpoint_options, following, hint
from ..message_printer import MessagePrinter
from ..output import Output
from ..payloads import json_line, raw_json
from ..runner import asynchronous
from ..shared_options import count_option, json_option, timeout_option
from ..text import clock, one_line

_COLOURS = {"error": "red", "warn": "yellow", "info": "green", "debug": "blue"}
_KNOWN = ("level", "module", "message", "timestamp")


@click.command(help=__doc__)
@click.option(
    "--level",
    "levels",
    type=click.Choice(get_args(LogLevel), case_sensitive=False),
    multiple=True,
    default=["error"],
    show_default=True,
    help="Print entries of this level; can be given several times.",
)
@click.option("--regex", help="Print entries whose text matches this regular expression.")
@count_option("entries")
@timeout_option("Stop after MS milliseconds; exit with 1 if fewer than COUNT entries arrived.")
@endpoint_options
@json_option
@asynchronous(endless=lambda given: given["count"] is None and given["timeout"] is None)
async def command(
    endpoint: Endpoint,
    levels: tuple[LogLevel, ...],
    regex: str | None,
    count: int | None,
    timeout: int | None,
    as_json: bool,
) -> None:
    output = Output(as_json)
    wanted = list(dict.fromkeys(levels))
    printer = MessagePrinter(
        output, lambda _, message: _line(message, output), count=count, timeout=timeout
    )
    async with (
        following(endpoint, "mb log", "Follows the log") as client,
        client.follow_log(wanted, regex) as entries,
    ):
        hint(output, f"the log of {endpoint.shown} ({', '.join(wanted)})")
        await printer.follow([entries])
    printer.check("entries")


def _line(message: Message, output: Output) -> str:
    payload = raw_json(message.raw_payload)
    try:
        entry = message.payload
    except RemoteProtocolError:
        entry = None
    if not isinstance(entry, dict) or payload is None:
        entry = {"message": message.raw_payload.decode(errors="backslashreplace")}
        payload = None
    if not output.people:
        return json_line(entry if payload is None else payload)
    level = str(entry.get("level", ""))
    rest = "".join(f"  {key}={_value(value)}" for key, value in entry.items() if key not in _KNOWN)
    return (
        f"{output.style(_time(entry.get('timestamp')), dim=True)}  "
        f"{output.style(f'{one_line(level).upper():<5}', fg=_COLOURS.get(level.lower()))}  "
        f"{output.style(one_line(str(entry.get('module', '-'))), fg='cyan')}  "
        f"{one_line(str(entry.get('message', '')))}"
        f"{output.style(one_line(rest), dim=True) if rest else ''}\n"
    )


def _time(timestamp: object) -> str:
    try:
        return clock(datetime.fromisoformat(str(timestamp)))
    except ValueError:
        return clock()


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
