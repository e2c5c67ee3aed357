"""The header line of a message: its fields, its limits, and a fast reader.

    action:topic:version[:requestId[:parentRequestId[:timeout]]]

Fields are positional; an absent one before a present one is empty (docs/protocol.md, "Header").
Messages of one kind share the first three fields, so a reader remembers what it read there: a
header met before costs one or two look-ups in a dictionary.
"""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Any

import msgspec

from .cache import BoundedCache
from .codec import JSON, Codec
from .errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from .ids import check_id, is_id
from .topic import check_topic, is_system, is_topic

__all__ = [
    "DEFAULT_VERSION",
    "MAX_HEADER",
    "MAX_TIMEOUT",
    "Action",
    "HeaderPrefix",
    "HeaderReader",
    "MessageHeader",
    "ReadHeader",
    "check_timeout",
    "encode_header",
    "read_header",
]

MAX_HEADER = 367
"""Length of the longest header in bytes, including its newline."""

MAX_TIMEOUT = 3_600_000
"""The longest time limit, in milliseconds."""

DEFAULT_VERSION = "1.0.0"

# The reference broker's semver package accepts semver.org's grammar and a leading `v`.
_NUMBER = r"(?:0|[1-9]\d*)"
_PRERELEASE = rf"(?:{_NUMBER}|\d*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"v?({_NUMBER})\.({_NUMBER})\.({_NUMBER})"
    rf"(?:-{_PRERELEASE}(?:\.{_PRERELEASE})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_MAX_VERSION = 256  # characters
_MAX_NUMBER = 2**53 - 1
# JavaScript's white space, which the reference broker ignores around a version.
_SPACES = (
    "\t\v\f\r \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
# The beginning of a time limit that JavaScript's parseInt reads.
_INTEGER = re.compile(rb"[\t\v\f\r ]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(?!0[xX])(\d+))")
_REMEMBERED = 4096  # prefixes
_COLON = ord(":")
_R = ord("r")


class Action(StrEnum):
    """What a message is for.

    A `StrEnum`: members compare equal to `"publish"`, `"request"` and `"response"`.
    """

    PUBLISH = "publish"
    REQUEST = "request"
    RESPONSE = "response"


_ACTIONS = {action.value: action for action in Action}


class MessageHeader(msgspec.Struct, frozen=True):
    """The fields of a header. They are checked when they are used, as by `create_message`.

    Attributes:
        action: `"publish"`, `"request"` or `"response"`.
        topic: 1 to 5 segments, joined by dots.
        version: Version of the topic, a semantic version.
        request_id: Id of the message: a UUID in lower case, or None.
        parent_id: Id of the message that caused this one: a UUID in lower case, or None.
        timeout: Time limit in milliseconds, for requests only; None for the broker's default.
    """

    action: str
    topic: str
    version: str = DEFAULT_VERSION
    request_id: str | None = None
    parent_id: str | None = None
    timeout: int | None = None


class HeaderPrefix:
    """Action, topic and version of a header: what messages of one kind have in common.

    `key` is the topic in lower case, as it is matched; `subject` is topic and version as they were
    received, and `encoded` the same with the action, in lower case.  `codec` reads the payloads.
    `route` belongs to the reader's owner: what it looked up for this prefix, valid while
    `generation` is that of its table.
    """

    __slots__ = (
        "action",
        "codec",
        "encoded",
        "generation",
        "key",
        "route",
        "subject",
        "topic",
        "version",
    )

    def __init__(self, action: Action, topic: str, version: str, codec: Codec = JSON) -> None:
        self.action = action
        self.codec = codec
        self.topic = topic
        self.version = version
        self.key = topic.lower()
        self.subject = f"{topic}:{version}".encode()
        self.encoded = b"%b:%b" % (action.value.encode(), self.subject)
        self.route: Any = None
        self.generation = -1


# The prefix, request id, parent id, time limit in milliseconds, and the index of the newline.
ReadHeader = tuple[HeaderPrefix, bytes | None, bytes | None, int | None, int]


class HeaderReader:
    """Reads headers and remembers their prefixes; each table that routes by them has its own.

    `limit` is in bytes, including the newline.  `codec` reads payloads, except those of the
    broker's own topics, which are JSON.
    """

    __slots__ = ("_codec", "_known", "_limit")

    def __init__(self, limit: int = MAX_HEADER, codec: Codec = JSON) -> None:
        self._limit = limit
        self._codec = codec
        self._known: BoundedCache[bytes, HeaderPrefix] = BoundedCache(_REMEMBERED)

    def read(self, data: bytes) -> ReadHeader:
        """Read the header of a whole message; raises RemoteProtocolError if it is invalid."""
        end = data.find(b"\n", 0, self._limit)
        known = self._known
        start = end - 37
        if start > 0 and data[start] == _COLON:
            prefix = known.get(data[:start])
            if prefix is not None:
                request_id = data[start + 1 : end]
                if is_id(request_id):
                    return prefix, request_id, None, None, end
        elif end > 0 and data[0] != _R:  # a request without an id is rare
            prefix = known.get(data[:end])
            if prefix is not None:
                return prefix, None, None, None, end
        return self._read(data, end)

    def _read(self, data: bytes, end: int) -> ReadHeader:
        # A request with a time limit, as most have: `::` follows its id.
        cut = data.rfind(b"::", 0, end)
        start = cut - 37
        if start > 0 and data[start] == _COLON and cut + 2 < end:
            prefix = self._known.get(data[:start])
            if prefix is not None:
                key, limit = data[start + 1 : cut], data[cut + 2 : end]
                if is_id(key) and _COLON not in limit:
                    return prefix, key, None, _read_timeout(limit, prefix.action), end
        fields = _split(data, end, self._limit)
        prefix = self._known.get(b":".join(fields[:3]))
        if prefix is None:
            prefix = self._learn(_read_prefix(fields))
        request_id, parent_id, timeout = _read_rest(fields, prefix.action)
        return prefix, request_id, parent_id, timeout, end

    def _learn(self, prefix: HeaderPrefix) -> HeaderPrefix:
        known = self._known
        if prefix.encoded not in known:
            if not is_system(prefix.key):
                prefix.codec = self._codec
            known[prefix.encoded] = prefix
        return known[prefix.encoded]


def read_header(data: bytes) -> ReadHeader:
    """Read the header of a whole message, without remembering anything.

    As lenient as the reference broker: actions in any case, spaces around the version, anything
    after the digits of a time limit; fields after the sixth are ignored.
    Raises RemoteProtocolError with `code` and `details`.
    """
    end = data.find(b"\n", 0, MAX_HEADER)
    fields = _split(data, end)
    prefix = _read_prefix(fields)
    request_id, parent_id, timeout = _read_rest(fields, prefix.action)
    return prefix, request_id, parent_id, timeout, end


def encode_header(header: MessageHeader) -> bytes:
    """Return the header line, including its newline.

    Raises LocalProtocolError for an invalid field, MessageTooLarge over MAX_HEADER.
    """
    action = _ACTIONS.get(header.action.lower()) if isinstance(header.action, str) else None
    if action is None:
        raise LocalProtocolError(
            f"invalid action {header.action!r}: expected publish, request or response"
        )
    check_topic(header.topic)
    if not isinstance(header.version, str) or not _is_version(header.version):
        raise LocalProtocolError(
            f"invalid version {header.version!r}: expected a semantic version such as 1.0.0"
        )
    fields = [f"{action.value}:{header.topic}:{header.version}".encode(), b"", b"", b""]
    if header.request_id is not None:
        fields[1] = check_id(header.request_id, "request id")
    if header.parent_id is not None:
        fields[2] = check_id(header.parent_id, "parent id")
    if header.timeout is not None:
        if action is not Action.REQUEST:
            raise LocalProtocolError(f"a time limit is for requests only, not for a {action.value}")
        fields[3] = b"%d" % check_timeout(header.timeout)
    line = b":".join(fields).rstrip(b":") + b"\n"
    if len(line) > MAX_HEADER:
        raise MessageTooLarge(
            f"the header has {len(line)} bytes, the limit is {MAX_HEADER}: shorten the version",
            size=len(line),
            limit=MAX_HEADER,
        )
    return line


def check_timeout(timeout: int, name: str = "timeout") -> int:
    """Return a time limit, or raise LocalProtocolError if it is invalid."""
    if isinstance(timeout, int) and not isinstance(timeout, bool) and 1 <= timeout <= MAX_TIMEOUT:
        return timeout
    raise LocalProtocolError(
        f"invalid {name} {timeout!r}: expected whole milliseconds from 1 to {MAX_TIMEOUT}"
        + _in_milliseconds(timeout)
    )


def _in_milliseconds(duration: object) -> str:
    """A hint for a time limit that may have been meant in seconds."""
    if isinstance(duration, timedelta):
        milliseconds = duration / timedelta(milliseconds=1)
        what = "this duration is"
    elif isinstance(duration, float):
        milliseconds = duration * 1000
        what = f"{duration:g} seconds are"
    else:
        return ""
    if not 1 <= milliseconds <= MAX_TIMEOUT:
        return ""
    return f" ({what} {round(milliseconds)})"


def _split(data: bytes, end: int, limit: int = MAX_HEADER) -> list[bytes]:
    if end < 0:
        raise RemoteProtocolError(
            f"invalid message: no newline ends the header within its limit of {limit} bytes"
        )
    return data[:end].split(b":")


def _read_prefix(fields: list[bytes]) -> HeaderPrefix:
    if len(fields) < 3:
        raise RemoteProtocolError(
            f"invalid header {_text(b':'.join(fields))[:80]!r}: action, topic and version are "
            "required, joined by ':'"
        )
    action_text, topic, version = (_text(field) for field in fields[:3])
    action = _ACTIONS.get(action_text.lower())
    if action is None:
        raise RemoteProtocolError(
            f"invalid action {action_text!r}: expected publish, request or response",
            details={"validActions": list(_ACTIONS)},
        )
    if not is_topic(topic):
        raise RemoteProtocolError(f"invalid topic {topic!r}", details={"topic": topic})
    if not _is_version(version, _SPACES):
        raise RemoteProtocolError(
            f"invalid version {version!r}: expected a semantic version such as 1.0.0",
            details={"version": version},
        )
    return HeaderPrefix(action, topic, version)


def _read_rest(
    fields: list[bytes], action: Action
) -> tuple[bytes | None, bytes | None, int | None]:
    """Read the ids and the time limit, each of which may be absent or empty."""
    count = len(fields)
    request_id = fields[3] if count > 3 and fields[3] else None
    parent_id = fields[4] if count > 4 and fields[4] else None
    if request_id is not None and not is_id(request_id):
        raise _bad_id("requestId", request_id)
    if parent_id is not None and not is_id(parent_id):
        raise _bad_id("parentRequestId", parent_id)
    timeout = _read_timeout(fields[5], action) if count > 5 and fields[5] else None
    return request_id, parent_id, timeout


def _read_timeout(field: bytes, action: Action) -> int:
    if action is not Action.REQUEST:
        raise RemoteProtocolError(
            f"a timeout is allowed on requests only, not on a {action.value}",
            details={"action": action.value},
        )
    number = int(field) if field.isdigit() and len(field) <= 15 else _parse_int(field)
    if number is None or not 1 <= number <= MAX_TIMEOUT:
        raise RemoteProtocolError(
            f"invalid timeout {_text(field)!r}: expected whole milliseconds from 1 to "
            f"{MAX_TIMEOUT}",
            details={"timeout": number},
        )
    return number


def _parse_int(field: bytes) -> int | None:
    """Read a number as JavaScript's parseInt does: `3333.33` is 3333, `5ms` is 5.

    None if the field does not begin with a number, or if it is too large to be exact in JSON.
    """
    found = _INTEGER.match(field)
    if found is None:
        return None
    sign, hexadecimal, decimal = found.groups()
    number = int(hexadecimal, 16) if hexadecimal is not None else int(decimal)
    if number > _MAX_NUMBER:
        return None
    return -number if sign == b"-" else number


def _is_version(version: str, around: str = "") -> bool:
    """Whether `version` is a semantic version; characters of `around` may surround it."""
    if len(version) > _MAX_VERSION:
        return False
    found = _VERSION.fullmatch(version.strip(around) if around else version)
    return found is not None and all(
        len(number) < 17 and int(number) <= _MAX_NUMBER for number in found.groups()
    )


def _bad_id(name: str, value: bytes) -> RemoteProtocolError:
    text = _text(value)
    return RemoteProtocolError(
        f"invalid {name} {text!r}: expected a UUID of 36 characters in lower case",
        details={name: text},
    )


def _text(field: bytes) -> str:
    return field.decode(errors="backslashreplace")
