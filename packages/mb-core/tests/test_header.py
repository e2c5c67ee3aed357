"""The header line: every field and every limit, read and written."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from mb_core.header import (
    MAX_HEADER,
    MAX_TIMEOUT,
    Action,
    HeaderReader,
    MessageHeader,
    check_timeout,
    encode_header,
    read_header,
)

from .headers import ID, PARENT, number

VALID_ACTIONS = {"validActions": ["publish", "request", "response"]}


def fields_of(data: bytes) -> tuple[Any, ...]:
    """What a header says, for comparing."""
    prefix, request_id, parent_id, timeout, end = read_header(data)
    return prefix.action, prefix.topic, prefix.version, request_id, parent_id, timeout, end


# Reading


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("publish:a:1.0.0", ("publish", "a", "1.0.0", None, None, None)),
        ("PUBLISH:a:1.0.0", ("publish", "a", "1.0.0", None, None, None)),
        ("ReQuest:a:1.0.0", ("request", "a", "1.0.0", None, None, None)),
        ("response:A.bC:1.0.0", ("response", "A.bC", "1.0.0", None, None, None)),
        (f"publish:a:1.0.0:{ID}", ("publish", "a", "1.0.0", ID, None, None)),
        (f"publish:a:1.0.0:{ID}:{PARENT}", ("publish", "a", "1.0.0", ID, PARENT, None)),
        (f"publish:a:1.0.0::{PARENT}", ("publish", "a", "1.0.0", None, PARENT, None)),
        (f"request:a:1.0.0:{ID}:{PARENT}:1", ("request", "a", "1.0.0", ID, PARENT, 1)),
        (f"request:a:1.0.0:{ID}::5000", ("request", "a", "1.0.0", ID, None, 5000)),
        (f"request:a:1.0.0::{PARENT}:5000", ("request", "a", "1.0.0", None, PARENT, 5000)),
        ("request:a:1.0.0:::3600000", ("request", "a", "1.0.0", None, None, 3_600_000)),
        ("request:a:1.0.0:::0005000", ("request", "a", "1.0.0", None, None, 5000)),
        ("request:a:1.0.0:::000000000005000", ("request", "a", "1.0.0", None, None, 5000)),
        ("publish:a:1.0.0:", ("publish", "a", "1.0.0", None, None, None)),
        ("publish:a:1.0.0:::", ("publish", "a", "1.0.0", None, None, None)),
        ("publish:a:1.0.0:::::what:ever", ("publish", "a", "1.0.0", None, None, None)),
        (f"request:a:1.0.0:{ID}::5:more", ("request", "a", "1.0.0", ID, None, 5)),
        ("publish:a: 1.0.0 ", ("publish", "a", " 1.0.0 ", None, None, None)),
    ],
)
def test_a_header_is_read_by_place(line: str, expected: tuple[Any, ...]) -> None:
    *most, request_id, parent_id, timeout = expected
    ids = [None if each is None else each.encode() for each in (request_id, parent_id)]
    assert fields_of(f"{line}\nrest".encode()) == (*most, *ids, timeout, len(line))


def test_the_payload_begins_behind_the_first_newline() -> None:
    data = b"publish:a:1.0.0\n\n{}\n"
    assert data[read_header(data)[-1] + 1 :] == b"\n{}\n"


@pytest.mark.parametrize(
    "version",
    [
        "0.0.0",
        "10.20.30",
        "v1.0.0",
        "1.0.0-alpha",
        "1.0.0-alpha.1-x",
        "1.0.0+b.5",
        "1.2.3-rc.1+b",
        "1.0.0-0",
        "1.0.0-01a",
        "1.0.0--1",
        "1.0.0-99999999999999999999",
        "1.0.0+01",
        "9007199254740991.9007199254740991.9007199254740991",
        f"1.0.0-{'b' * 250}",
        f"1.0.0+{'b' * 250}",
    ],
    ids=lambda version: version[:40],
)
def test_a_version_is_semantic(version: str) -> None:
    assert read_header(f"publish:a:{version}\n".encode())[0].version == version
    line = f"publish:a:{version}\n".encode()
    assert encode_header(MessageHeader("publish", "a", version)) == line


BAD_VERSIONS = {
    "empty": "",
    "one number": "1",
    "two numbers": "1.0",
    "four numbers": "1.0.0.0",
    "leading zero": "01.0.0",
    "leading zero later": "1.0.00",
    "upper-case v": "V1.0.0",
    "two v": "vv1.0.0",
    "empty pre-release": "1.0.0-",
    "empty build": "1.0.0+",
    "empty part of a pre-release": "1.0.0-a..b",
    "underscore": "1.0.0-a_b",
    "wildcard": "1.0.x",
    "space within": "1. 0.0",
    "space behind the v": "v 1.0.0",
    "equals sign": "=1.0.0",
    "leading zero in a pre-release": "1.0.0-01",
    "leading zero later in a pre-release": "1.0.0-a.01",
    "a number that JavaScript can't count": "9007199254740992.0.0",
    "a larger one": "1.99999999999999999999.0",
    "thousands of digits": f"1.0.{'9' * 240}",
    "257 characters": f"1.0.0-{'b' * 251}",
    "257 characters with a build": f"1.0.0+{'b' * 251}",
    "file separator around": "\x1c1.0.0",
    "digits of another script": "\u0661.0.0",
}


@pytest.mark.parametrize("version", BAD_VERSIONS.values(), ids=BAD_VERSIONS)
def test_a_version_that_is_not_semantic_is_refused(version: str) -> None:
    with pytest.raises(RemoteProtocolError, match="invalid version") as read:
        read_header(f"publish:a:{version}:{ID}\n".encode())
    assert read.value.details == {"version": version}
    with pytest.raises(LocalProtocolError, match="invalid version"):
        encode_header(MessageHeader("publish", "a", version))


@pytest.mark.parametrize(
    "space", [" ", "\t", "\r", "\v", "\f", "\xa0", "\u2003", "\ufeff"], ids=repr
)
def test_spaces_around_a_version_are_read_and_never_written(space: str) -> None:
    version = f"{space}1.0.0{space}"
    prefix = read_header(f"publish:a:{version}:{ID}\n".encode())[0]
    assert (prefix.version, prefix.subject) == (version, f"a:{version}".encode())
    with pytest.raises(LocalProtocolError, match="invalid version"):
        encode_header(MessageHeader("publish", "a", version))


def test_spaces_count_towards_the_length_of_a_version() -> None:
    assert read_header(f"publish:a:1.0.0{' ' * 251}\n".encode())[0].version.strip() == "1.0.0"
    with pytest.raises(RemoteProtocolError, match="invalid version"):
        read_header(f"publish:a:1.0.0{' ' * 252}\n".encode())


@pytest.mark.parametrize("read", [read_header, HeaderReader().read], ids=["read", "reader"])
@pytest.mark.parametrize(
    ("field", "milliseconds"),
    [
        ("3333.33", 3333),
        ("1e3", 1),
        ("5ms", 5),
        ("5.", 5),
        ("5 5", 5),
        (" 5", 5),
        ("\t5", 5),
        ("+5", 5),
        ("1_000", 1),
        ("00005", 5),
        ("0x10", 16),
        ("+0X1G", 1),
        ("3600000.9", 3_600_000),
    ],
)
def test_a_time_limit_is_read_as_parse_int_does(field: str, milliseconds: int, read: Any) -> None:
    for _ in range(2):  # a reader takes another way when it knows the topic
        assert read(f"request:a:1.0.0:{ID}::{field}\n".encode())[3] == milliseconds
        assert read(f"request:a:1.0.0:::{field}\n".encode())[3] == milliseconds


# The reference broker's answer to each of these: MALFORMED_MESSAGE with these details.
MALFORMED: dict[str, tuple[bytes, dict[str, Any] | None]] = {
    "empty": (b"", None),
    "no newline": (b"publish:a:1.0.0", None),
    "newline alone": (b"\n", None),
    "action only": (b"publish\n{}", None),
    "no version": (b"publish:a\n{}", None),
    "unknown action": (b"bogus:a:1.0.0\n{}", VALID_ACTIONS),
    "space before the action": (b" publish:a:1.0.0\n{}", VALID_ACTIONS),
    "empty action": (b":a:1.0.0\n{}", VALID_ACTIONS),
    "three empty fields": (b"::\n{}", VALID_ACTIONS),
    "action in letters that look alike": ("pub\u217cish:a:1.0.0\n".encode(), VALID_ACTIONS),
    "empty topic": (b"publish::1.0.0\n", {"topic": ""}),
    "bad topic": (b"publish:a..b:1.0.0\n", {"topic": "a..b"}),
    "six segments": (b"publish:a.b.c.d.e.f:1.0.0\n", {"topic": "a.b.c.d.e.f"}),
    "pattern as topic": (b"publish:#:1.0.0\n", {"topic": "#"}),
    "space after the topic": (b"publish:a :1.0.0\n", {"topic": "a "}),
    "topic that is not ASCII": ("publish:système:1.0.0\n".encode(), {"topic": "système"}),
    "topic that is no UTF-8": (b"publish:a\xff:1.0.0\n", {"topic": "a\\xff"}),
    "256 characters": (b"publish:%b:1.0.0\n" % (b"a" * 256), {"topic": "a" * 256}),
    "bad version": (b"publish:a:1.0\n", {"version": "1.0"}),
    "bad id": (b"publish:a:1.0.0:x\n", {"requestId": "x"}),
    "upper-case id": (f"publish:a:1.0.0:{ID.upper()}\n".encode(), {"requestId": ID.upper()}),
    "space before the id": (f"publish:a:1.0.0: {ID}\n".encode(), {"requestId": f" {ID}"}),
    "id that is no UTF-8": (b"publish:a:1.0.0:\xff\n", {"requestId": "\\xff"}),
    "bad parent id": (f"request:a:1.0.0:{ID}:bad\n".encode(), {"parentRequestId": "bad"}),
    "bad parent id alone": (b"publish:a:1.0.0::bad\n", {"parentRequestId": "bad"}),
    "time limit 0": (f"request:a:1.0.0:{ID}:{PARENT}:0\n".encode(), {"timeout": 0}),
    "no number": (f"request:a:1.0.0:{ID}:{PARENT}:abc\n".encode(), {"timeout": None}),
    "over an hour": (f"request:a:1.0.0:{ID}::3600001\n".encode(), {"timeout": 3_600_001}),
    "hours": (b"request:a:1.0.0:::123456789012345\n", {"timeout": 123_456_789_012_345}),
    "more digits than JSON": (b"request:a:1.0.0:::%b\n" % (b"9" * 300), {"timeout": None}),
    "negative": (b"request:a:1.0.0:::-5\n", {"timeout": -5}),
    "minus zero": (b"request:a:1.0.0:::-0\n", {"timeout": 0}),
    "less than one": (b"request:a:1.0.0:::0.9\n", {"timeout": 0}),
    "fraction without a number": (b"request:a:1.0.0:::.5\n", {"timeout": None}),
    "hexadecimal without digits": (b"request:a:1.0.0:::0x\n", {"timeout": None}),
    "not a number": (b"request:a:1.0.0:::NaN\n", {"timeout": None}),
    "infinity": (b"request:a:1.0.0:::Infinity\n", {"timeout": None}),
    "space alone": (b"request:a:1.0.0::: \n", {"timeout": None}),
    "other digits": ("request:a:1.0.0:::\u0665\n".encode(), {"timeout": None}),
    "publish with a time limit": (f"publish:a:1.0.0:{ID}::5\n".encode(), {"action": "publish"}),
    "response with a time limit": (b"response:a:1.0.0:::5\n", {"action": "response"}),
    "publish with a bad time limit": (b"publish:a:1.0.0:::abc\n", {"action": "publish"}),
}


@pytest.mark.parametrize("read", [read_header, HeaderReader().read], ids=["read", "reader"])
@pytest.mark.parametrize(("data", "details"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_header_is_refused_with_its_details(
    data: bytes, details: dict[str, Any] | None, read: Any
) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^(invalid|a timeout)") as raised:
        read(data)
    assert raised.value.code == "MALFORMED_MESSAGE"
    assert raised.value.details == details
    str(raised.value).encode()  # it can be sent


def test_the_first_fault_is_the_one_that_is_named() -> None:
    faults = [b"bogus", b"1a", b"1.0", b"x", b"y", b"z"]
    right = [b"request", b"a", b"1.0.0", ID.encode(), ID.encode()]
    named = []
    for count in range(len(faults)):
        with pytest.raises(RemoteProtocolError) as raised:
            read_header(b":".join(right[:count] + faults[count:]) + b"\n")
        named += raised.value.details or {}
    expected = ["validActions", "topic", "version", "requestId", "parentRequestId", "timeout"]
    assert named == expected


# The limit


def line_of(size: int) -> bytes:
    """A good header of `size` bytes, its newline included."""
    line = b"publish:%b:1.0.0-" % (b"a" * 200)
    return line + b"x" * (size - len(line) - 1) + b"\n"


def test_a_header_may_be_as_long_as_the_limit() -> None:
    assert MAX_HEADER == 367
    data = line_of(367)
    assert read_header(data)[-1] == 366
    prefix = read_header(data)[0]
    assert encode_header(MessageHeader("publish", prefix.topic, prefix.version)) == data


@pytest.mark.parametrize("read", [read_header, HeaderReader().read], ids=["read", "reader"])
def test_a_header_one_byte_over_the_limit_is_refused(read: Any) -> None:
    with pytest.raises(RemoteProtocolError, match=r"no newline ends the header within .* 367"):
        read(line_of(368))


def test_a_newline_beyond_the_limit_does_not_make_a_header() -> None:
    with pytest.raises(RemoteProtocolError, match="no newline"):
        read_header(b"publish:a:1.0.0" + b" " * 400 + b"\n{}")


def test_writing_a_header_over_the_limit_says_its_size() -> None:
    topic, version = "a" * 200, f"1.0.0-{'x' * 152}"
    with pytest.raises(MessageTooLarge, match="368 bytes, the limit is 367") as raised:
        encode_header(MessageHeader("publish", topic, version))
    assert (raised.value.size, raised.value.limit) == (368, 367)


def test_the_longest_topic_with_everything_fits() -> None:
    header = MessageHeader("request", "a" * 255, "10.10.10-alpha", ID, PARENT, MAX_TIMEOUT)
    assert len(encode_header(header)) <= MAX_HEADER
    assert encode_header(header).endswith(b":3600000\n")


# Writing


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (MessageHeader("publish", "a.B"), "publish:a.B:1.0.0"),
        (MessageHeader("PUBLISH", "a"), "publish:a:1.0.0"),
        (MessageHeader(Action.RESPONSE, "a", "2.0.0", ID), f"response:a:2.0.0:{ID}"),
        (MessageHeader("publish", "a", "1.0.0", ID, PARENT), f"publish:a:1.0.0:{ID}:{PARENT}"),
        (MessageHeader("publish", "a", parent_id=PARENT), f"publish:a:1.0.0::{PARENT}"),
        (MessageHeader("request", "a", timeout=5000), "request:a:1.0.0:::5000"),
        (MessageHeader("request", "a", "1.0.0", ID, None, 1), f"request:a:1.0.0:{ID}::1"),
        (MessageHeader("request", "a", "1.0.0", None, PARENT, 9), f"request:a:1.0.0::{PARENT}:9"),
    ],
)
def test_a_field_stands_in_its_place(header: MessageHeader, line: str) -> None:
    assert encode_header(header) == f"{line}\n".encode()


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (MessageHeader("", "a"), "invalid action ''"),
        (MessageHeader("bogus", "a"), "expected publish, request or response"),
        (MessageHeader("publish ", "a"), "invalid action"),
        (MessageHeader(None, "a"), "invalid action None"),  # type: ignore[arg-type]
        (MessageHeader("publish", ""), "invalid topic"),
        (MessageHeader("publish", "a.#"), "wildcards are for subscriptions only"),
        (MessageHeader("publish", "a\nb"), "invalid topic"),
        (MessageHeader("publish", None), "invalid topic None"),  # type: ignore[arg-type]
        (MessageHeader("publish", "a", " 1.0.0"), "invalid version"),
        (MessageHeader("publish", "a", "1.0.0\n"), "invalid version"),
        (MessageHeader("publish", "a", "1.0.0-\ud800"), "invalid version"),
        (MessageHeader("publish", "a", None), "invalid version None"),  # type: ignore[arg-type]
        (MessageHeader("publish", "a", request_id="x"), "invalid request id 'x'"),
        (MessageHeader("publish", "a", request_id=""), "invalid request id ''"),
        (MessageHeader("publish", "a", request_id="\ud800" * 36), "invalid request id"),
        (MessageHeader("publish", "a", request_id=f"{ID}\n"), "invalid request id"),
        (MessageHeader("publish", "a", parent_id=ID.upper()), "invalid parent id"),
        (MessageHeader("publish", "a", timeout=5), "for requests only, not for a publish"),
        (MessageHeader("response", "a", timeout=5), "for requests only, not for a response"),
        (MessageHeader("request", "a", timeout=0), "invalid timeout 0"),
    ],
)
def test_a_field_that_breaks_a_rule_is_not_written(header: MessageHeader, fault: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(fault)):
        encode_header(header)


@pytest.mark.parametrize("timeout", [1, 2, MAX_TIMEOUT])
def test_a_time_limit_is_whole_milliseconds_up_to_an_hour(timeout: int) -> None:
    assert check_timeout(timeout) == timeout


@pytest.mark.parametrize(
    "timeout", [0, -1, MAX_TIMEOUT + 1, 10**20, True, 1.0, "5", None], ids=repr
)
def test_what_is_no_time_limit_is_refused(timeout: Any) -> None:
    with pytest.raises(LocalProtocolError, match="whole milliseconds from 1 to 3600000"):
        check_timeout(timeout)


word = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,7}", fullmatch=True)
part = st.from_regex(r"[0-9A-Za-z-]{1,5}", fullmatch=True)
prerelease = number.map(str) | st.from_regex(
    r"[0-9]{0,2}[A-Za-z-][0-9A-Za-z-]{0,3}", fullmatch=True
)
ids = st.uuids().map(str)


@st.composite
def headers(draw: st.DrawFn) -> MessageHeader:
    action = draw(st.sampled_from(Action))
    version = draw(st.sampled_from(["", "v"]))
    version += ".".join(str(draw(number)) for _ in range(3))
    for mark, each in (("-", prerelease), ("+", part)):
        parts = draw(st.lists(each, max_size=2))
        version += f"{mark}{'.'.join(parts)}" if parts else ""
    return MessageHeader(
        action,
        ".".join(draw(st.lists(word, min_size=1, max_size=5))),
        version,
        draw(st.none() | ids),
        draw(st.none() | ids),
        draw(st.none() | st.integers(1, MAX_TIMEOUT)) if action is Action.REQUEST else None,
    )


@settings(deadline=None)
@given(headers(), st.binary(max_size=5))
def test_what_is_written_is_read_again(header: MessageHeader, payload: bytes) -> None:
    line = encode_header(header)
    for read in (read_header, HeaderReader().read):
        prefix, request_id, parent_id, timeout, end = read(line + payload)
        again = MessageHeader(
            prefix.action,
            prefix.topic,
            prefix.version,
            request_id and request_id.decode(),
            parent_id and parent_id.decode(),
            timeout,
        )
        assert again == header
        assert end == len(line) - 1


def test_a_prefix_has_the_header_as_it_is_matched_and_as_it_is_passed_on() -> None:
    prefix, *_ = read_header(b"Request:Weather.Oslo:v1.0.0\n")
    assert prefix.action is Action.REQUEST
    assert prefix.key == "weather.oslo"
    assert prefix.subject == b"Weather.Oslo:v1.0.0"
    assert prefix.encoded == b"request:Weather.Oslo:v1.0.0"
