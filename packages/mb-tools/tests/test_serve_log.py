"""The log's lines: for people and for machines, whatever others put into them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest

import mb_sync
from mb_tools.serve.log import JsonFormatter, TextFormatter, UnblockedHandler, set_up


def record(message: str, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("mb_broker.registry", logging.WARNING, "", 0, message, (), None)
    made.created = 1_767_225_600.25
    made.__dict__.update(extra)
    return made


def as_json(entry: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(entry)
    assert "\n" not in line
    read: dict[str, Any] = json.loads(line)
    return read


def test_json_has_time_level_module_message_and_what_the_entry_is_about() -> None:
    assert list(as_json(record("Weather registered", mb={"serviceId": "7"})).items()) == [
        ("timestamp", "2026-01-01T00:00:00.250Z"),
        ("level", "warning"),
        ("module", "mb_broker.registry"),
        ("message", "Weather registered"),
        ("serviceId", "7"),
    ]


def test_a_field_never_takes_the_place_of_an_entrys_own() -> None:
    assert as_json(record("real", mb={"message": "forged", "level": "debug"}))["message"] == "real"


def test_what_json_has_no_form_for_is_written_in_pythons() -> None:
    assert as_json(record("a", mb={"error": ValueError("x")}))["error"] == "ValueError('x')"


@pytest.mark.parametrize("field", ["\ud800", pytest.param(None, id="too deep")])
def test_fields_that_cant_be_written_are_left_out(field: Any) -> None:
    if field is None:
        for _ in range(100_000):
            field = [field]
    entry = as_json(record("a\ud800", mb={"payload": field}))
    assert entry["message"] == "a\\ud800"
    assert "payload" not in entry


def test_a_traceback_is_part_of_the_json_and_follows_the_text() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        entry = record("internal error", exc_info=sys.exc_info())
    assert as_json(entry)["exception"].endswith("ValueError: broken")
    lines = TextFormatter().format(entry).splitlines()
    assert lines[0].endswith(" WARNING internal error")
    assert lines[-1] == "ValueError: broken"


def test_a_name_with_line_breaks_and_colours_is_one_line_of_text() -> None:
    line = TextFormatter().format(record("Eve\n2026 INFO forged\x1b[31m registered"))
    assert line.endswith(r" WARNING Eve\n2026 INFO forged\x1b[31m registered")


@pytest.mark.parametrize(
    ("style", "kind"), [("text", TextFormatter), ("json", JsonFormatter)], ids=["text", "json"]
)
def test_the_log_goes_to_stderr_from_its_level_on(
    style: str, kind: type[logging.Formatter], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    set_up("error", style)
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr
    assert isinstance(handler.formatter, kind)
    assert root.level == logging.ERROR


def test_a_log_that_nobody_reads_blocks_nothing_and_says_what_it_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mb_tools.serve.log._MAX_WAITING", 10)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        handler = UnblockedHandler(stream)
        logger = logging.getLogger("test_logs")
        logger.propagate = False
        logger.addHandler(handler)
        for number in range(200):  # the pipe holds a few of them
            logger.warning("%d %s", number, "x" * 10_000)
        written = dropped = 0
        while written + dropped < 200:
            entry = reader.readline()
            if entry.startswith("dropped entries: "):
                dropped += int(entry.split()[2])
            else:
                written += 1
        assert dropped > 100
        logger.warning("the last")
        assert reader.readline() == "the last\n"
        logger.removeHandler(handler)
        handler.close()


def test_a_broker_whose_log_is_not_read_serves_and_ends() -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "mb_tools", "serve", "--tcp-port", "0", "--ws-port", "off"]
    with subprocess.Popen(
        [*command, "--log-level", "debug"], stdout=subprocess.PIPE, stderr=writing, text=True
    ) as process:
        try:
            os.close(writing)
            fill = os.open(f"/proc/{process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(fill, b"x" * 4096)
            os.close(fill)
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with mb_sync.MessageBrokerClient(url) as client:
                for _ in range(20):
                    client.request("system.heartbeat", {})
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(reading)


def test_json_has_no_character_raw_that_a_terminal_obeys_or_does_not_show() -> None:
    name = "Eve\x1b[31m\x7f\x9b31m\u202eliam\u200b\u2028é"
    line = JsonFormatter().format(record(f"{name} registered", mb={"name": name}))
    assert line.replace("é", "").isascii()
    assert line.replace("é", "").isprintable()
    assert as_json(record(name))["message"] == name


def test_a_traceback_is_escaped_line_by_line() -> None:
    try:
        raise ValueError("from Eve\x1b[2J\u202e")
    except ValueError:
        entry = record("internal error", exc_info=sys.exc_info())
    text = TextFormatter().format(entry)
    assert text.endswith("\nValueError: from Eve\\x1b[2J\\u202e")
