"""Asking and answering."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mb_broker import RunningBroker
from mb_core import (
    Action,
    InternalError,
    InvalidRequestError,
    LocalProtocolError,
    Message,
    MessageHeader,
    MessageTooLarge,
    NoRouteFoundError,
    Plugins,
    RequestTimeoutError,
    ResponseError,
    hookimpl,
)
from mb_sync import MessageBrokerClient
from mb_tcp import plugin as tcp

from .conftest import Heard

PARENT = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_an_answer_comes_back(url: str) -> None:
    with MessageBrokerClient(url) as service, MessageBrokerClient(url) as client:
        service.subscribe("echo.it", action="request", handler=lambda message: message.payload)
        payload = {"text": "grüße 😀", "numbers": [1, -2.5, 2**53], "none": None}
        answer = client.request("echo.it", payload)
        assert answer.payload == payload
        assert answer.topic == "echo.it"


def test_a_response_handler_is_called_before_the_request_returns(
    client: MessageBrokerClient,
) -> None:
    client.subscribe("double", action="request", handler=lambda message: 2 * message.payload)
    heard: list[Any] = []
    answer = client.request("double", 21, heard.append)
    assert (heard, answer.payload) == ([42], 42)

    async def wrong(payload: Any) -> None: ...

    with pytest.raises(TypeError, match="to be awaited"):
        client.request("double", 21, wrong)


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda client: client.request("no.body", 1), NoRouteFoundError),
        (lambda client: client.request("no body", 1), LocalProtocolError),
        (lambda client: client.request("no.body", object()), LocalProtocolError),
        (lambda client: client.request("no.body", 1, timeout=0), LocalProtocolError),
        (lambda client: client.request("no.body", "x" * 2**21), MessageTooLarge),
        (lambda client: client.publish("no.body", 1, confirm=True), NoRouteFoundError),
        (lambda client: client.publish("no body", 1), LocalProtocolError),
        (lambda client: client.publish("no.body", object()), LocalProtocolError),
        (lambda client: client.subscribe("no body"), LocalProtocolError),
        (lambda client: client.subscribe("no.body", action="sing"), LocalProtocolError),
        (lambda client: client.unsubscribe("no.body"), LocalProtocolError),
        (lambda client: client.register_service("x" * 37, ""), LocalProtocolError),
    ],
)
def test_errors_are_those_of_the_async_client(
    ask: Callable[[MessageBrokerClient], Any],
    error: type[Exception],
    client: MessageBrokerClient,
) -> None:
    with pytest.raises(error):
        ask(client)
    assert client.connected  # nothing else is lost


def test_a_request_that_is_not_answered_in_time_fails(client: MessageBrokerClient) -> None:
    client.subscribe("silent", action="request")
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        client.request("silent", 1, timeout=50)
    assert 0.05 <= time.monotonic() - began < 2
    assert client.stats().pending == 0


def test_a_handler_runs_in_a_thread_and_may_ask_itself(client: MessageBrokerClient) -> None:
    threads = []

    def outer(message: Message) -> Any:
        threads.append(threading.current_thread())
        return client.request("inner", message.payload).payload + 1

    client.subscribe("outer", action="request", handler=outer)
    client.subscribe("inner", action="request", handler=lambda message: message.payload * 2)
    assert client.request("outer", 5).payload == 11
    assert threads[0] is not threading.current_thread()


class Watching:
    """An observer: what a client sends."""

    def __init__(self) -> None:
        self.sent: dict[str, MessageHeader] = {}

    @hookimpl
    def mb_message_sending(self, message: Message) -> None:
        if message.action is not Action.RESPONSE:
            self.sent[message.topic] = message.header


def test_what_a_handler_sends_is_the_child_of_its_request(mb_broker: RunningBroker) -> None:
    watching = Watching()
    plugins = Plugins()
    plugins.register(tcp, "mb-tcp")
    plugins.register(watching, "watching")

    def outer(message: Message) -> Any:
        client.request("inner", None)
        client.publish("event.one", None)
        client.publish("event.two", None, confirm=True)
        return message.request_id

    with MessageBrokerClient(mb_broker.url_of("tcp"), plugins=plugins) as client:
        client.subscribe("event.#", handler=lambda message: None)
        client.subscribe("inner", action="request", handler=lambda message: None)
        client.subscribe("outer", action="request", handler=outer)
        request_id = client.request("outer", None, parent_id=PARENT, timeout=2_000).payload
    sent = watching.sent
    assert sent["outer"].parent_id == PARENT
    for topic in ("inner", "event.one", "event.two"):
        assert sent[topic].parent_id == request_id
    # The inner one has no more time than is left to the outer one.
    assert sent["inner"].timeout is not None
    assert sent["inner"].timeout <= 2_000


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, StopIteration])
def test_a_handler_that_fails_says_so_to_its_own_side_only(
    kind: type[BaseException], mb_broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    errors = Heard()

    def fail(message: Message) -> None:
        raise kind("a secret")

    with MessageBrokerClient(mb_broker.url) as client:
        client.on_error(errors)
        client.subscribe("fail", action="request", handler=fail)
        for _ in range(2):  # it is still there
            with pytest.raises(InternalError, match="its log says why") as raised:
                client.request("fail", None)
            assert "secret" not in str(raised.value)
        assert errors.wait()
    assert isinstance(errors[0] if kind is ValueError else errors[0].__cause__, kind)
    assert "the handler" in caplog.text


def test_a_handler_may_answer_with_an_error_of_its_own(client: MessageBrokerClient) -> None:
    def refuse(message: Message) -> None:
        raise ResponseError("too cold", code="TOO_COLD", details={"degrees": -40})

    client.subscribe("refuse", action="request", handler=refuse)
    with pytest.raises(ResponseError, match="too cold") as raised:
        client.request("refuse", None)
    assert raised.value.code == "TOO_COLD"


def test_a_handler_may_respond_itself_and_go_on(client: MessageBrokerClient) -> None:
    went_on = threading.Event()
    answered = threading.Event()

    def respond(message: Message) -> str:
        assert message.deadline is not None
        assert message.respond("early") is None
        assert answered.wait(5)
        with pytest.raises(LocalProtocolError, match="answered already"):
            message.respond("again")
        went_on.set()
        return "late"

    client.subscribe("respond", action="request", handler=respond)
    assert client.request("respond", None, timeout=5_000).payload == "early"
    answered.set()
    assert went_on.wait(5)


def test_an_answer_that_can_not_be_sent_is_an_internal_error(client: MessageBrokerClient) -> None:
    client.subscribe("bad", action="request", handler=lambda message: object())
    with pytest.raises(InternalError, match="can't be sent"):
        client.request("bad", None)


def test_async_handlers_are_refused_by_name(client: MessageBrokerClient) -> None:
    async def greet(message: Message) -> str:
        return "hello"

    with pytest.raises(LocalProtocolError, match="greet is async: mb_sync calls plain functions"):
        client.subscribe("greet", action="request", handler=greet)
    # One that hides it is found out when it is called.
    client.subscribe("greet", action="request", handler=lambda message: greet(message))
    with pytest.raises(InternalError):
        client.request("greet", None)


def test_as_many_handlers_run_at_a_time_as_were_asked_for(client: MessageBrokerClient) -> None:
    together = threading.Barrier(4, timeout=5)

    def meet(message: Message) -> int:
        return together.wait()

    client.subscribe("meet", action="request", handler=meet, concurrency=4)
    places: list[int] = []

    def ask() -> None:
        places.append(client.request("meet", None).payload)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(places) == [0, 1, 2, 3]


def test_a_handler_with_no_more_than_one_call_at_a_time_keeps_the_order(
    client: MessageBrokerClient,
) -> None:
    seen: list[int] = []
    all_seen = threading.Event()

    def note(message: Message) -> None:
        seen.append(message.payload)
        if len(seen) == 2_000:
            all_seen.set()

    client.subscribe("count", handler=note)
    for number in range(2_000):
        client.publish("count", number)
    assert all_seen.wait(10)
    assert seen == list(range(2_000))


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def named() -> Iterator[None]:
    token = variable.set("the subscriber's")
    yield
    variable.reset(token)


def test_a_handler_sees_the_context_variables_of_who_subscribed(
    named: None, client: MessageBrokerClient
) -> None:
    variable.set("the subscriber's")
    client.subscribe("who", action="request", handler=lambda message: variable.get())
    variable.set("another's")
    assert client.request("who", None).payload == "the subscriber's"


def test_a_handler_may_close_the_client(
    mb_broker: RunningBroker, client: MessageBrokerClient
) -> None:
    service = MessageBrokerClient(mb_broker.url)
    service.connect()

    def close(message: Message) -> str:
        service.close()
        return "good bye"

    service.subscribe("close", action="request", handler=close)
    assert client.request("close", None).payload == "good bye"  # closing drains
    service.run()  # until it is over
    assert not service.connected


def test_closing_waits_for_handlers_and_sends_their_answers(mb_broker: RunningBroker) -> None:
    running, go = threading.Event(), threading.Event()

    def slow(message: Message) -> str:
        running.set()
        assert go.wait(5)
        return "done"

    answers: list[Any] = []
    with MessageBrokerClient(mb_broker.url) as client:
        service = MessageBrokerClient(mb_broker.url)
        service.connect()
        service.subscribe("slow", action="request", handler=slow)
        asking = threading.Thread(target=lambda: answers.append(client.request("slow", None)))
        asking.start()
        assert running.wait(5)
        closing = threading.Thread(target=service.close)
        closing.start()
        go.set()
        closing.join()
        asking.join()
    assert [answer.payload for answer in answers] == ["done"]


def test_a_request_that_its_handler_cant_read_is_refused_with_the_path(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    client.on_error(heard)
    client.subscribe("order.place", action="request", handler=lambda m: m.decode(dict[str, int]))
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match="Expected `int`, got `str`") as raised:
            client.request("order.place", {"count": "x"})
        assert raised.value.details == {"path": "$[...]"}
    assert heard.wait()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.records[0].exc_info is None
    assert client.request("order.place", {"count": 1}).payload == {"count": 1}


@pytest.mark.parametrize("way", ["returned", "by hand"])
def test_an_answer_that_is_late_is_counted_and_not_sent(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    heard = Heard()
    client.on_error(heard)
    gave_up = threading.Event()

    def slow(message: Message) -> str:
        assert gave_up.wait(5)
        # The broker's time limit is over, and ours is a moment later.
        assert message.deadline is not None
        time.sleep(max(0, message.deadline - time.monotonic()) + 0.01)
        if way == "by hand":
            message.respond("by hand")
        return "done"

    client.subscribe("slow", action="request", handler=slow)
    with pytest.raises(RequestTimeoutError):
        client.request("slow", {}, timeout=30)
    gave_up.set()
    assert heard.wait()
    assert heard[0].details == {"topic": "slow", "count": 1}
    assert client.stats().late_answers == 1


class NotAnswered(logging.Handler):
    """Waits for the entry that an answer was not sent."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("not answered"):
            self.seen.set()


def test_an_answer_that_nobody_can_get_any_more_is_no_failure(
    mb_broker: RunningBroker,
    client: MessageBrokerClient,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    log, not_answered = logging.getLogger("mb_core.client"), NotAnswered()
    caplog.set_level("DEBUG", log.name)
    log.addHandler(not_answered)
    request.addfinalizer(lambda: log.removeHandler(not_answered))
    heard = Heard()
    asked, closed = threading.Event(), threading.Event()

    def slow(message: Message) -> str:
        asked.set()
        assert closed.wait(5)
        return "done"

    def ask() -> None:
        with pytest.raises(ResponseError):
            client.request("slow", {})

    service = MessageBrokerClient(mb_broker.url, drain_timeout=10)
    service.on_error(heard)
    service.connect()
    service.subscribe("slow", action="request", handler=slow)
    asking = threading.Thread(target=ask)
    asking.start()
    assert asked.wait(5)
    service.close()
    closed.set()
    asking.join(5)
    assert not_answered.seen.wait(5)
    assert heard == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
