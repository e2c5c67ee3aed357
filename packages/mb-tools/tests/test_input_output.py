"""Payloads from stdin, lines to stdout: without a broker, with real pipes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from mb_tools.errors import Failure
from mb_tools.output import Output
from mb_tools.payloads import json_line, json_payload, raw_json, read_payload, stdin_lines
from mb_tools.runner import until_nobody_reads
from mb_tools.text import clock

anyio_test = pytest.mark.anyio


class Pipe:
    """A pipe: file objects for both ends, the writing one as stdout would be."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.reader = open(reading, "rb", buffering=0)  # noqa: SIM115, PTH123
        self.writer = open(writing, "w", encoding="utf-8")  # noqa: SIM115, PTH123

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    try:
        yield made
    finally:
        made.close()


class Typed(io.TextIOWrapper):
    """Stdin or stdout that is a terminal."""

    def isatty(self) -> bool:
        return True


# Output


@anyio_test
async def test_lines_reach_a_pipe_in_order(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", pipe.writer)
    output = Output()
    print("first")
    await output.write("second \N{SNOWMAN}\n")
    assert os.read(pipe.reader.fileno(), 100).decode() == "first\nsecond \N{SNOWMAN}\n"
    assert (output.people, output.style("a", fg="red")) == (False, "a")


@anyio_test
async def test_a_slow_reader_stops_no_other_task(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", pipe.writer)
    text = "".join(f"{number}\n" for number in range(100_000))
    received = bytearray()

    async def read() -> None:
        while len(received) < len(text):
            await anyio.wait_readable(pipe.reader)
            received.extend(os.read(pipe.reader.fileno(), 10_000))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await Output().write(text)
    assert received.decode() == text


@anyio_test
async def test_lines_of_two_tasks_are_not_mixed(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", pipe.writer)
    output = Output()
    received = bytearray()
    size = 200_000

    async def read() -> None:
        while len(received) < 2 * size + 2:
            await anyio.wait_readable(pipe.reader)
            received.extend(os.read(pipe.reader.fileno(), 100_000))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(output.write, "a" * size + "\n")
            tasks.start_soon(output.write, "b" * size + "\n")
            tasks.start_soon(read)
    assert sorted(received.decode().split()) == ["a" * size, "b" * size]


@anyio_test
async def test_a_pipe_that_others_share_may_be_non_blocking(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", pipe.writer)
    os.set_blocking(pipe.writer.fileno(), False)
    output = Output()
    real_write = os.write
    refused = []

    def write(fd: int, data: bytes) -> int:
        if not refused:
            refused.append(fd)
            raise BlockingIOError
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    with anyio.fail_after(60):
        await output.write("a\n")
    assert refused
    assert os.read(pipe.reader.fileno(), 10) == b"a\n"


@anyio_test
async def test_a_closed_pipe_raises(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", pipe.writer)
    pipe.reader.close()
    with pytest.raises(BrokenPipeError):
        await Output().write("a\n")


@anyio_test
async def test_what_only_listens_ends_with_its_reader(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", pipe.writer)
    listening = anyio.Event()

    async def listen() -> None:
        listening.set()
        await anyio.sleep_forever()

    async def leave() -> None:
        await listening.wait()
        pipe.reader.close()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            assert await until_nobody_reads(listen) is None


@anyio_test
async def test_a_file_has_no_reader_that_could_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write() -> None:
        await Output().write("a\n")

    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        await until_nobody_reads(write)
    assert (tmp_path / "out").read_text() == "a\n"


@anyio_test
async def test_a_stdout_that_is_no_file_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.StringIO()
    monkeypatch.setattr(sys, "stdout", kept)

    async def write() -> None:
        await Output().write("a\n")

    await until_nobody_reads(write)
    assert kept.getvalue() == "a\n"


@anyio_test
@pytest.mark.parametrize(
    ("as_json", "no_color", "people", "styled"),
    [(False, "", True, "\x1b[31ma\x1b[0m"), (False, "1", True, "a"), (True, "", False, "a")],
)
async def test_colours_are_for_terminals_whose_user_wants_them(
    as_json: bool, no_color: str, people: bool, styled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Typed(io.BytesIO()))
    monkeypatch.setenv("NO_COLOR", no_color)
    output = Output(as_json)
    assert (output.people, output.style("a", fg="red")) == (people, styled)


def test_a_line_of_json_ends() -> None:
    assert json_line({"a": [1, None]}) == '{"a":[1,null]}\n'


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", b"null"),
        (b' {"a":\n1.50e3}', b'{"a":1.50e3}'),
        (b"nope", None),
        (b'"\xff"', None),
        (b"[" * 100_000, None),
    ],
)
def test_a_payload_stays_as_it_was_written(payload: bytes, shown: bytes | None) -> None:
    raw = raw_json(payload)
    assert (None if raw is None else bytes(raw)) == shown


def test_the_clock_shows_milliseconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    assert clock(moment).endswith(":04:05.678")
    assert len(clock()) == len("03:04:05.678")


# Input


@pytest.mark.parametrize(
    ("data", "text", "payload"),
    [
        (b'{"a":\n 1.0}\n', False, b'{"a":1.0}'),
        (b"hello\n", True, b'"hello"'),
        (b"two\nlines\r\n", True, b'"two\\nlines"'),
        (b"", True, b'""'),
        (b"\xef\xbb\xbf1", False, b"1"),
        (b"\xef\xbb\xbfhello", True, b'"hello"'),
        (b'["\\ud800",\r\n1.0]', False, b'["\\ud800",  1.0]'),
    ],
)
def test_a_payload_is_one_line_of_json(data: bytes, text: bool, payload: bytes) -> None:
    assert bytes(json_payload(data, text=text)) == payload


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"nope", "is not valid JSON: invalid character"),
        (b'"\xff"', "is not UTF-8"),
        (b"[", "is not valid JSON"),
        (b'["\\ud800", NaN]', "is not valid JSON"),
        ('{"a":1}'.encode("utf-16-le"), "is not valid JSON"),
        ('{"a":1}'.encode("utf-32-be"), "is not valid JSON"),
    ],
)
def test_what_is_no_payload_says_why(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        json_payload(data, text=False)


def test_nothing_at_all_is_an_empty_object(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bytes(read_payload(None, text=False)) == b"{}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" \n")))
    assert bytes(read_payload("-", text=False)) == b"{}"


def test_a_text_has_to_be_given() -> None:
    with pytest.raises(Failure, match="--text needs a PAYLOAD"):
        read_payload(None, text=True)


def test_a_dash_reads_stdin_even_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(io.BytesIO(b"[1]\n")))
    assert bytes(read_payload("-", text=False)) == b"[1]"


def test_a_payload_that_is_none_names_the_way_out() -> None:
    with pytest.raises(
        Failure, match=r"the payload is not valid JSON: .* \(use --text to send it as a string\)"
    ):
        read_payload("hello", text=False)


def test_a_payload_in_another_encoding_is_to_be_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(io.BytesIO(b"\xff\xfe1\x00")))
    with pytest.raises(Failure, match=r"is not UTF-8: .* \(convert it to UTF-8\)"):
        read_payload("-", text=True)


async def lines() -> list[bytes]:
    with anyio.fail_after(60):
        return [line async for line in stdin_lines()]


@anyio_test
async def test_lines_come_from_a_pipe(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", pipe.reader)
    pipe.writer.write("a\r\n\n  \nb\nc")
    pipe.writer.close()
    assert await lines() == [b"a", b"b", b"c"]


@anyio_test
async def test_a_line_may_come_in_parts(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", pipe.reader)
    got: list[bytes] = []

    async def read() -> None:
        got.extend(await lines())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for part in ("one ", "line\ntwo", "\n"):
            pipe.writer.write(part)
            pipe.writer.flush()
            await anyio.wait_all_tasks_blocked()
        pipe.writer.close()
    assert got == [b"one line", b"two"]


@anyio_test
async def test_lines_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_text("a\nb\n")
    with (tmp_path / "in").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert await lines() == [b"a", b"b"]


@anyio_test
async def test_lines_come_from_a_stdin_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in: Any = io.TextIOWrapper(io.BytesIO(b"a\nb"))
    monkeypatch.setattr(sys, "stdin", stand_in)
    assert await lines() == [b"a", b"b"]
