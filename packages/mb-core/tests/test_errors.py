"""The tree of errors: its codes, its attributes, and that they survive a copy."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mb_core import errors
from mb_core.errors import (
    ConnectError,
    ConnectionLost,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    InvalidRequestIdError,
    LocalProtocolError,
    MalformedMessageError,
    MBError,
    MessageTooLarge,
    NoRouteFoundError,
    PluginError,
    ProtocolError,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
    ServiceUnavailableError,
    SlowConsumer,
    TopicNotSupportedError,
    UnauthorizedError,
    VersionNotSupportedError,
    timestamp_now,
)

# The protocol's codes, and the class that people catch for each.
CODES: dict[str, type[ResponseError]] = {
    "INVALID_REQUEST": InvalidRequestError,
    "MALFORMED_MESSAGE": MalformedMessageError,
    "INVALID_REQUEST_ID": InvalidRequestIdError,
    "VERSION_NOT_SUPPORTED": VersionNotSupportedError,
    "UNAUTHORIZED": UnauthorizedError,
    "FORBIDDEN": ForbiddenError,
    "TOPIC_NOT_SUPPORTED": TopicNotSupportedError,
    "NO_ROUTE_FOUND": NoRouteFoundError,
    "SERVICE_UNAVAILABLE": ServiceUnavailableError,
    "TIMEOUT": RequestTimeoutError,
    "INTERNAL_ERROR": InternalError,
}

TIMESTAMP = "2026-01-01T00:00:00.000Z"


# A user's own classes, where pickle finds them.


class QuotaExceeded(ResponseError):
    """A code of its own."""

    code = "TEST_QUOTA_EXCEEDED"


class OutOfRange(ResponseError):
    """A code and a constructor of its own."""

    code = "TEST_OUT_OF_RANGE"

    def __init__(self, value: int, lowest: int) -> None:
        super().__init__(f"{value} is below {lowest}", details={"lowest": lowest})
        self.value = value


class Unforgiving(MBError):
    """A constructor that Exception's way of copying does not fit."""

    def __init__(self, *, reason: str) -> None:
        super().__init__()
        self.reason = reason


# The tree


def test_every_error_has_one_root() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]
    assert len(classes) > 20
    assert all(issubclass(each, MBError) for each in classes)


def test_the_picture_shows_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for indent, name in re.findall(r"^((?: {4})+)(\w+)", errors.__doc__ or "", re.MULTILINE):
        above[len(indent) // 4 - 1 :] = [name]
        drawn[name] = above[-2] if len(above) > 1 else "Exception"
    assert drawn == {
        name: getattr(errors, name).__base__.__name__
        for name in errors.__all__
        if name != "timestamp_now"
    }


def test_whose_fault_it_was_is_a_class_under_protocol_error() -> None:
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert not issubclass(LocalProtocolError, RemoteProtocolError)


@pytest.mark.parametrize("lost", [ConnectError, ConnectionLost, SlowConsumer, MessageTooLarge])
def test_what_no_other_side_said_is_no_response_error(lost: type[MBError]) -> None:
    assert not issubclass(lost, ResponseError)


def test_a_protocol_error_is_a_malformed_message_unless_said_otherwise() -> None:
    assert ProtocolError("x").code == "MALFORMED_MESSAGE"
    assert ProtocolError("x").details is None
    error = ProtocolError("x", code="INVALID_REQUEST", details={"a": 1})
    assert (error.code, error.details) == ("INVALID_REQUEST", {"a": 1})


def test_a_connect_error_may_pass_unless_it_is_said_to_be_final() -> None:
    assert ConnectError("x").final is False
    assert ConnectError("x", final=True).final is True


def test_a_slow_consumer_is_told_what_it_lost_and_what_helps() -> None:
    error = SlowConsumer("weather.#", 12)
    assert (error.topic, error.dropped) == ("weather.#", 12)
    assert re.search(r"'weather\.#'.*12 messages.*queue_size", str(error))


# Codes and subclasses


@pytest.mark.parametrize(("code", "kind"), CODES.items(), ids=CODES)
def test_a_code_of_the_protocol_has_its_subclass(code: str, kind: type[ResponseError]) -> None:
    error = ResponseError.of(code, "why", timestamp=TIMESTAMP, details=[1])
    assert type(error) is kind
    assert (error.code, error.message) == (code, "why")
    assert (error.timestamp, error.details) == (TIMESTAMP, [1])
    assert kind("why").code == code


@pytest.mark.parametrize("code", ["", "NOT_ON_THE_LIST", "internal_error", "TIMEOUT "])
def test_a_code_that_is_unknown_here_is_a_plain_response_error(code: str) -> None:
    error = ResponseError.of(code, "why")
    assert type(error) is ResponseError
    assert error.code == code


def test_a_plain_response_error_is_an_internal_error_unless_said_otherwise() -> None:
    assert ResponseError("x").code == "INTERNAL_ERROR"
    assert ResponseError("x", code="OUT_OF_RANGE").code == "OUT_OF_RANGE"


def test_a_code_given_to_one_error_leaves_its_class_alone() -> None:
    ResponseError("x", code="OUT_OF_RANGE")
    NoRouteFoundError("x", code="OUT_OF_RANGE")
    assert ResponseError("x").code == "INTERNAL_ERROR"
    assert NoRouteFoundError("x").code == "NO_ROUTE_FOUND"


def test_a_subclass_with_a_code_of_its_own_is_made_for_that_code() -> None:
    with pytest.raises(QuotaExceeded, match="TEST_QUOTA_EXCEEDED: no more") as raised:
        raise ResponseError.of("TEST_QUOTA_EXCEEDED", "no more", details={"left": 0})
    assert raised.value.details == {"left": 0}


def test_a_subclass_with_a_constructor_of_its_own_is_made_for_its_code_all_the_same() -> None:
    error = ResponseError.of("TEST_OUT_OF_RANGE", "no", timestamp=TIMESTAMP, details={"lowest": 3})
    assert type(error) is OutOfRange
    assert (error.code, error.message) == ("TEST_OUT_OF_RANGE", "no")
    assert (error.timestamp, error.details) == (TIMESTAMP, {"lowest": 3})
    assert str(error) == "TEST_OUT_OF_RANGE: no"
    assert error.args == ("no",)


@pytest.mark.parametrize(("code", "kind"), CODES.items(), ids=CODES)
@pytest.mark.parametrize("says_its_code", [True, False])
def test_a_users_subclass_does_not_take_over_a_code(
    code: str, kind: type[ResponseError], says_its_code: bool
) -> None:
    body = {"code": code} if says_its_code else {}
    type("OfTheTree", (kind,), body)
    type("OfTheRoot", (ResponseError,), body)
    assert type(ResponseError.of(code, "why")) is kind


def test_a_users_subclass_without_a_code_has_its_parents() -> None:
    class Mine(ResponseError):
        pass

    class AlsoMine(NoRouteFoundError):
        pass

    assert Mine("x").code == "INTERNAL_ERROR"
    assert AlsoMine("x").code == "NO_ROUTE_FOUND"


def test_the_second_class_for_a_code_does_not_replace_the_first() -> None:
    class Second(ResponseError):
        code = "TEST_QUOTA_EXCEEDED"

    assert type(ResponseError.of(Second.code, "why")) is QuotaExceeded


# Text and JSON


def test_the_text_begins_with_the_code() -> None:
    assert str(NoRouteFoundError("nobody listens")) == "NO_ROUTE_FOUND: nobody listens"
    assert str(NoRouteFoundError()) == "NO_ROUTE_FOUND"


def test_json_leaves_out_details_that_are_absent() -> None:
    error = RequestTimeoutError("late", timestamp=TIMESTAMP)
    assert error.as_json() == {"code": "TIMEOUT", "message": "late", "timestamp": TIMESTAMP}


@pytest.mark.parametrize("details", [0, "", [], {}, False, {"a": None}], ids=repr)
def test_json_keeps_details_that_are_empty(details: object) -> None:
    assert ResponseError("x", details=details).as_json()["details"] == details


def test_a_new_error_is_stamped_with_the_time_as_the_protocol_writes_it() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    text = ResponseError("x").timestamp
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert before <= datetime.fromisoformat(text) <= datetime.now(UTC)
    assert re.fullmatch(r"[0-9T:.-]{23}Z", timestamp_now())


# Copies

EXAMPLES: dict[str, MBError] = {
    "MBError": MBError("text"),
    "ConnectError": ConnectError("text"),
    "ConnectError, final": ConnectError("text", final=True),
    "ConnectionLost": ConnectionLost("text", sent=True),
    "ProtocolError": ProtocolError("text", code="INVALID_REQUEST", details={"a": [1]}),
    "LocalProtocolError": LocalProtocolError("text"),
    "RemoteProtocolError": RemoteProtocolError("text", details={"topic": "1"}),
    "MessageTooLarge": MessageTooLarge("text", size=5, limit=4),
    "SlowConsumer": SlowConsumer("a.#", 3),
    "PluginError": PluginError("text"),
    "ResponseError": ResponseError("text", code="MINE", timestamp=TIMESTAMP, details=[None]),
    **{
        kind.__name__: kind("text", timestamp=TIMESTAMP, details={"a": 1})
        for kind in CODES.values()
    },
    "a user's, with a constructor": OutOfRange(1, lowest=2),
    "a user's, of the root": Unforgiving(reason="why"),
}

COPIES: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle protocol {number}": (
            lambda error, number=number: pickle.loads(pickle.dumps(error, number))
        )
        for number in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def test_every_class_has_an_example_below() -> None:
    classes = {name for name in errors.__all__ if name[0].isupper()}
    assert classes <= set(EXAMPLES)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("error", EXAMPLES.values(), ids=EXAMPLES)
def test_a_copy_keeps_everything(error: MBError, copied: Callable[[MBError], MBError]) -> None:
    other = copied(error)
    assert other is not error
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert repr(other) == repr(error)
    assert other.args == error.args
    assert vars(other) == vars(error)


def test_a_copy_keeps_notes() -> None:
    error = ConnectionLost("text", sent=False)
    error.add_note("while publishing")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while publishing"]


def test_a_copy_of_an_error_can_be_changed_alone() -> None:
    error = RemoteProtocolError("text", details={"topic": ["1"]})
    other = copy.deepcopy(error)
    assert isinstance(other.details, dict)
    other.details["topic"].append("2")
    assert error.details == {"topic": ["1"]}
