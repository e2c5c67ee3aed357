"""The reader that remembers headers: the same results as without memory."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mb_core.errors import RemoteProtocolError
from mb_core.header import (
    HeaderPrefix,
    HeaderReader,
    read_header,
)

from .headers import ID, PARENT, field

messages = st.one_of(
    # Headers that are nearly right, several of them with the same beginning.
    st.builds(
        lambda fields, rest: b":".join(fields) + rest,
        st.lists(field, max_size=7),
        st.sampled_from([b"\n", b"\n{}", b"", b"\r\n"]),
    ),
    st.builds(
        lambda action, topic, rest, payload: b":".join([action, topic, b"1.0.0", *rest]) + payload,
        st.sampled_from([b"publish", b"Publish", b"request", b"response"]),
        st.sampled_from([b"a", b"A", b"a.b"]),
        st.lists(st.sampled_from([ID.encode(), PARENT.encode(), b"", b"5", b"x"]), max_size=4),
        st.sampled_from([b"\n", b"\n{}", b":\n", b""]),
    ),
    st.binary(max_size=80),
)


def outcome(read: Any, data: bytes) -> object:
    """What reading gives or raises, in a form to compare."""
    try:
        prefix, *rest = read(data)
    except RemoteProtocolError as error:
        return type(error), str(error), error.code, error.details
    names = ("action", "topic", "version", "key", "subject", "encoded")
    return [getattr(prefix, name) for name in names], rest


@settings(max_examples=300, deadline=None)
@given(st.lists(messages, min_size=1, max_size=8))
@example([b"publish:a:1.0.0\n", b"publish:a:1.0.0:%b\n" % ID.encode()] * 2)
@example([b"publish:a:1.0.0\n", b"publish:a:1.0.0:%b\n" % ID.upper().encode()])
@example([b"publish:a:1.0.0\n", b"publish:a:1.0.0::%b\n" % ID.encode()])
@example([b"publish:a:1.0.0\n", b"publish:a:1.0.0:%b\n" % (b":" * 36)])
@example([b"publish:a:1.0.0\n", b"publish:a:1.0.0:%b:\n" % ID[1:].encode()])
@example([b"request:a:1.0.0\n", b"request:a:1.0.0:%b::5:x\n" % ID.encode()])
@example([b"request:a:1.0.0\n", b"request:a:1.0.0:%b::\n" % ID.encode()])
@example([b"publish:a:1.0.0\n", b"publish:a:1.0.0:%b::5\n" % ID.encode()])
def test_memory_makes_no_difference(data: list[bytes]) -> None:
    remembering = HeaderReader().read
    # Twice over: each is met by a reader that knows it, or all that its beginning can teach.
    for each in data * 2:
        assert outcome(remembering, each) == outcome(read_header, each)


def test_one_prefix_stands_for_all_messages_of_its_kind() -> None:
    read = HeaderReader().read
    first = read(b"publish:a.b:1.0.0\n{}")[0]
    assert read(b"publish:a.b:1.0.0\n[]")[0] is first
    assert read(f"publish:a.b:1.0.0:{ID}\n".encode())[0] is first
    assert read(f"publish:a.b:1.0.0:{ID}:{PARENT}\n".encode())[0] is first
    assert read(b"PUBLISH:a.b:1.0.0\n")[0] is first
    for other in (b"request:a.b:1.0.0\n", b"publish:a.B:1.0.0\n", b"publish:a.b:1.0.1\n"):
        assert read(other)[0] is not first


def test_a_prefix_is_learnt_from_a_message_whose_other_fields_are_wrong() -> None:
    read = HeaderReader().read
    with pytest.raises(RemoteProtocolError):
        read(b"publish:a:1.0.0:wrong\n")
    assert read(b"publish:a:1.0.0\n")[0].topic == "a"


def test_readers_share_nothing() -> None:
    data = b"publish:a:1.0.0\n"
    assert HeaderReader().read(data)[0] is not HeaderReader().read(data)[0]


def test_memory_is_bounded_whatever_comes() -> None:
    reader = HeaderReader()
    before = prefixes_alive()
    for number in range(10_000):
        reader.read(b"publish:a%d:1.0.0\n" % number)
    assert prefixes_alive() - before <= 4_096
    # And it still remembers.
    assert reader.read(b"publish:a:1.0.0\n")[0] is reader.read(b"publish:a:1.0.0\n")[0]


def test_bad_headers_are_not_remembered() -> None:
    reader = HeaderReader()
    before = prefixes_alive()
    for number, kind in itertools.product(range(100), ("publish:%d:1.0.0", "%d:a:1.0.0")):
        with pytest.raises(RemoteProtocolError):
            reader.read((kind % number).encode() + b"\n")
    assert prefixes_alive() == before


def prefixes_alive() -> int:
    gc.collect()
    return sum(type(found) is HeaderPrefix for found in gc.get_objects())
