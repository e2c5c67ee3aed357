"""Messages as bytes: headers that are remembered, their parts, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import ForbiddenError, LocalProtocolError, MessageTooLarge
from mb_core.header import MAX_TIMEOUT, Action, MessageHeader, encode_header
from mb_core.message import parse_message
from mb_core.session.encoder import Encoder, is_anonymous, with_timeout

ID = b"7a0c7a6e-0000-4000-8000-00000000beef"
PARENT = "7a0c7a6e-0000-4000-8000-000000000001"
VERSIONS = ["1.0.0", "2.0.0", "v1.2.3-rc.1+b"]
UNHASHABLE = [[], {}, set(), ["a.b"], bytearray(b"a.b")]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(1000)


# Publications and requests


@pytest.mark.parametrize("parent", [None, PARENT])
@pytest.mark.parametrize("request_id", [None, ID])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_publication_is_what_the_plain_way_of_encoding_gives_the_second_time_too(
    encoder: Encoder, version: str, request_id: bytes | None, parent: str | None
) -> None:
    text = request_id.decode() if request_id is not None else None
    header = encode_header(MessageHeader(Action.PUBLISH, "A.b", version, text, parent))
    for _ in range(2):
        message = encoder.publication(
            "A.b", [1], version=version, request_id=request_id, parent_id=parent
        )
        assert message == header + b"[1]"


@pytest.mark.parametrize("parent", [None, PARENT])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_is_what_the_plain_way_of_encoding_gives_the_second_time_too(
    encoder: Encoder, version: str, parent: str | None
) -> None:
    header = MessageHeader(Action.REQUEST, "A.b", version, ID.decode(), parent, 500)
    for _ in range(2):
        message = encoder.request(
            "A.b", [1], request_id=ID, timeout=500, version=version, parent_id=parent
        )
        assert message == encode_header(header) + b"[1]"


def test_what_is_remembered_of_a_topic_has_nothing_of_the_message_before(encoder: Encoder) -> None:
    encoder.publication("a.b", 1, parent_id=PARENT)
    assert encoder.publication("a.b", 2) == b"publish:a.b:1.0.0\n2"
    encoder.request("a.b", 1, request_id=ID, timeout=500, parent_id=PARENT)
    other = b"7a0c7a6e-0000-4000-8000-00000000cafe"
    expected = b"request:a.b:1.0.0:%b::7\n2" % other
    assert encoder.request("a.b", 2, request_id=other, timeout=7) == expected


def test_a_topic_is_remembered_in_its_own_spelling(encoder: Encoder) -> None:
    for topic in ("a.b", "A.b", "a.B", "a.b"):
        assert encoder.publication(topic, 1) == f"publish:{topic}:1.0.0\n1".encode()
        assert encoder.request(topic, 1, request_id=ID, timeout=1).startswith(
            f"request:{topic}:1.0.0:".encode()
        )


def test_publications_of_more_topics_than_are_remembered_are_right_as_well(
    encoder: Encoder,
) -> None:
    for _ in range(2):
        for number in range(5000):
            message = encoder.publication(f"topic.n{number}", number)
            assert message == b"publish:topic.n%d:1.0.0\n%d" % (number, number)


# Which topics were published


@pytest.mark.parametrize(
    "options",
    [{}, {"parent_id": PARENT}, {"version": "2.0.0"}, {"version": "2.0.0", "parent_id": PARENT}],
    ids=str,
)
def test_a_topic_that_was_published_is_known(encoder: Encoder, options: dict[str, Any]) -> None:
    assert not encoder.has_published("a.b")
    encoder.publication("a.b", 1, **options)
    assert encoder.has_published("a.b")
    assert not encoder.has_published("A.b")


def test_a_topic_that_was_requested_is_not_one_that_was_published(encoder: Encoder) -> None:
    encoder.request("a.b", 1, request_id=ID, timeout=1)
    assert not encoder.has_published("a.b")


def test_a_topic_that_was_refused_is_not_one_that_was_published(encoder: Encoder) -> None:
    with pytest.raises(LocalProtocolError):
        encoder.publication("a..b", 1)
    assert not encoder.has_published("a..b")


def test_asking_does_not_make_a_topic_known(encoder: Encoder) -> None:
    assert not encoder.has_published("a.b")
    assert not encoder.has_published("a.b")


# What is refused


@pytest.mark.parametrize("topic", [*UNHASHABLE, None, 1, b"a.b", "", "a..b", "a.+", "ü"], ids=repr)
@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_what_is_no_topic_is_refused(encoder: Encoder, topic: Any, version: str) -> None:
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="invalid topic"):
            encoder.publication(topic, 1, version=version)
        with pytest.raises(LocalProtocolError, match="invalid topic"):
            encoder.publication(topic, 1, version=version, request_id=ID)
        with pytest.raises(LocalProtocolError, match="invalid topic"):
            encoder.request(topic, 1, request_id=ID, timeout=1, version=version)


@pytest.mark.parametrize("version", [*UNHASHABLE, None, 1, b"1.0.0", "", "1.0"], ids=repr)
def test_what_is_no_version_is_refused(encoder: Encoder, version: Any) -> None:
    with pytest.raises(LocalProtocolError, match="invalid version"):
        encoder.publication("a.b", 1, version=version)
    with pytest.raises(LocalProtocolError, match="invalid version"):
        encoder.request("a.b", 1, request_id=ID, timeout=1, version=version)


@pytest.mark.parametrize("parent", [*UNHASHABLE, 1, "", "x", PARENT.upper(), PARENT + "\n"])
@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_what_is_no_id_is_refused_as_a_parent(encoder: Encoder, parent: Any, version: str) -> None:
    for request_id in (None, ID):
        with pytest.raises(LocalProtocolError, match="invalid parent id"):
            encoder.publication("a.b", 1, version=version, request_id=request_id, parent_id=parent)
    with pytest.raises(LocalProtocolError, match="invalid parent id"):
        encoder.request("a.b", 1, request_id=ID, timeout=1, version=version, parent_id=parent)


def test_a_payload_is_measured_without_its_header() -> None:
    encoder = Encoder(10)
    fits, over = "x" * 8, "x" * 9
    topic = "a" * 200
    encoder.publication(topic, fits)
    encoder.request(topic, fits, request_id=ID, timeout=1)
    asked = parse_message(b"request:a.b:1.0.0:%b\n{}" % ID)
    encoder.response(asked, fits)
    calls: list[Callable[[], bytes]] = [
        lambda: encoder.publication(topic, over),
        lambda: encoder.request(topic, over, request_id=ID, timeout=1),
        lambda: encoder.response(asked, over),
    ]
    for call in calls:
        with pytest.raises(MessageTooLarge) as caught:
            call()
        assert (caught.value.size, caught.value.limit) == (11, 10)


# Responses


@pytest.mark.parametrize("tail", [b"", b":" + ID])
def test_a_response_goes_under_what_its_request_came_under(encoder: Encoder, tail: bytes) -> None:
    asked = parse_message(b"request:A.b:2.0.0" + tail + b"\n{}")
    assert encoder.response(asked, {"n": 1}) == b"response:A.b:2.0.0" + tail + b'\n{"n":1}'
    error = encoder.response(asked, ForbiddenError("no"))
    assert error.startswith(b"response:A.b:2.0.0" + tail + b'\n{"error":{"code":"FORBIDDEN"')


# Whose publication it is


@pytest.mark.parametrize(
    ("message", "anonymous"),
    [
        (b"publish:a.b:1.0.0\n{}", True),
        (b"publish:a.b:1.0.0::%b\n{}" % PARENT.encode(), True),
        (b"publish:a.b:1.0.0:%b\n{}" % ID, False),
        (b"publish:a.b:1.0.0:%b:%b\n{}" % (ID, PARENT.encode()), False),
        (b'publish:a.b:1.0.0\n{"a":"b:c:d:e"}', True),
        (b"publish:a.b:1.0.0\n%b:%b:%b" % (ID, ID, ID), True),
    ],
)
def test_a_publication_with_an_id_is_somebodys(message: bytes, anonymous: bool) -> None:
    assert is_anonymous(message) is anonymous


@pytest.mark.parametrize("parent", [None, PARENT])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_encoders_own_publications_are_told_apart(
    encoder: Encoder, version: str, parent: str | None
) -> None:
    message = encoder.publication("a.b", "x:y", version=version, parent_id=parent)
    assert is_anonymous(message)
    message = encoder.publication("a.b", "x:y", version=version, request_id=ID, parent_id=parent)
    assert not is_anonymous(message)


# Another time limit


@pytest.mark.parametrize("parent", [None, PARENT])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("timeout", [1, 499, MAX_TIMEOUT])
def test_a_request_with_another_time_limit_is_the_same_request(
    encoder: Encoder, version: str, parent: str | None, timeout: int
) -> None:
    def make(limit: int) -> bytes:
        return encoder.request(
            "a.b", {"t": ":1:2"}, request_id=ID, timeout=limit, version=version, parent_id=parent
        )

    assert with_timeout(make(500), timeout) == make(timeout)


@given(st.binary(max_size=30), st.lists(st.integers(1, MAX_TIMEOUT), min_size=1, max_size=4))
def test_a_time_limit_can_be_set_again_whatever_the_payload_looks_like(
    payload: bytes, timeouts: list[int]
) -> None:
    message = b"request:a.b:1.0.0:%b::5000\n%b" % (ID, payload)
    for timeout in timeouts:
        message = with_timeout(message, timeout)
    assert message == b"request:a.b:1.0.0:%b::%d\n%b" % (ID, timeouts[-1], payload)
