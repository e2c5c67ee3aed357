"""What becomes of each request when the connection is lost."""

from __future__ import annotations

import anyio
import pytest

from mb_core import ConnectionLost, MessageBrokerClient, NoRouteFoundError, RequestTimeoutError
from mb_testing import until

from .gone_broker import QUICK, Outcome, gone
from .scripted import VIRTUAL_TIME, ScriptedBroker, ScriptedConnection, error
from .watching import Watch

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("leaves_nothing"),
    VIRTUAL_TIME,
]


async def test_a_request_in_flight_fails_at_once_and_may_have_been_sent(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(scripted.url, **QUICK) as client,
            anyio.create_task_group() as tasks,
        ):
            request = Outcome(tasks, lambda: client.request("a", {}))
            await scripted.connections[0].wait_for(b"request:a:")
            await scripted.connections[0].drop()
            assert (await request.lost()).sent
            await until(lambda: client.connected)
            assert scripted.connections[1].starting(b"request:a:") == []


async def test_a_request_fails_at_once_while_there_is_no_connection(
    scripted: ScriptedBroker,
) -> None:
    async with gone(scripted) as it:
        with pytest.raises(ConnectionLost, match="retry=True") as lost:
            await it.client.request("a", {})
        assert not lost.value.sent
        assert it.client.stats().pending == 0
        assert await it.come_back() == []


async def test_a_request_that_may_be_retried_is_sent_again_with_what_is_left_of_its_time(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(scripted.url, **QUICK) as client,
            anyio.create_task_group() as tasks,
        ):
            request = Outcome(
                tasks, lambda: client.request("a", {"n": 1}, timeout=4_000, retry=True)
            )
            first = await scripted.connections[0].wait_for(b"request:a:")
            await scripted.stop()
            begun = anyio.current_time()
            await until(lambda: anyio.current_time() - begun > 0.05)
            await scripted.listen()
            second = await (await scripted.connection(2)).wait_for(b"request:a:")
            scripted.connections[1].answer(second, b'"the answer"')
            assert (await request.succeeds()).payload == "the answer"
            assert client.stats().pending == 0
    fields, again = (each.split(b"\n")[0].split(b":") for each in (first, second))
    assert fields[:-1] == again[:-1]  # the id as well
    assert fields[-1] == b"4000"
    assert 1 <= int(again[-1]) <= 3_950
    assert first.partition(b"\n")[2] == second.partition(b"\n")[2] == b'{"n":1}'


async def test_a_request_that_may_be_retried_survives_any_number_of_losses(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(scripted.url, **QUICK) as client,
            anyio.create_task_group() as tasks,
        ):
            request = Outcome(tasks, lambda: client.request("a", {}, retry=True))
            for number in range(1, 5):
                connection = await scripted.connection(number)
                await connection.wait_for(b"request:a:")
                assert client.stats().pending == 1
                await connection.drop()
            connection = await scripted.connection(5)
            connection.answer(await connection.wait_for(b"request:a:"), b'"the answer"')
            assert (await request.succeeds()).payload == "the answer"
            assert [len(each.starting(b"request:a:")) for each in scripted.connections] == [1] * 5


async def test_a_request_made_while_disconnected_waits_for_the_restore_with_retry(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["a"] = b'"the answer"'
    async with gone(scripted) as it, anyio.create_task_group() as tasks:
        request = Outcome(tasks, lambda: it.client.request("a", {}, retry=True))
        await anyio.wait_all_tasks_blocked()
        assert it.client.stats().pending == 1
        await it.come_back()
        assert (await request.succeeds()).payload == "the answer"


async def test_a_retried_request_whose_time_is_over_is_lost_and_says_whether_it_was_sent(
    scripted: ScriptedBroker,
) -> None:
    """Without the second's margin, which is for a broker that is there."""
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(scripted.url, **QUICK, drain_timeout=0) as client,
            anyio.create_task_group() as tasks,
        ):
            watch = Watch(client)
            begun = anyio.current_time()
            before = Outcome(tasks, lambda: client.request("a", {}, timeout=100, retry=True))
            await scripted.connections[0].wait_for(b"request:a:")
            await scripted.stop()
            assert (await before.lost()).sent
            assert 0.09 < anyio.current_time() - begun < 1.05

            await watch.disconnects(1)
            begun = anyio.current_time()
            with pytest.raises(ConnectionLost, match="no connection within 100 ms") as lost:
                await client.request("a", {}, timeout=100, retry=True)
            assert not lost.value.sent
            assert 0.09 < anyio.current_time() - begun < 1.05

            assert client.stats().pending == 0
            await scripted.listen()
            await until(lambda: client.connected)
            await client.request("system.heartbeat", {})
            assert scripted.connections[1].starting(b"request:a:") == []


async def test_a_retried_request_that_the_new_broker_does_not_answer_is_a_timeout(
    scripted: ScriptedBroker,
) -> None:
    async with gone(scripted) as it, anyio.create_task_group() as tasks:
        request = Outcome(tasks, lambda: it.client.request("a", {}, timeout=200, retry=True))
        await it.come_back()
        await request.fails(RequestTimeoutError)


async def test_a_retried_request_gets_the_services_error_as_any_other(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["a"] = error("NO_ROUTE_FOUND", "nobody")
    async with gone(scripted) as it, anyio.create_task_group() as tasks:
        request = Outcome(tasks, lambda: it.client.request("a", {}, retry=True))
        await it.come_back()
        await request.fails(NoRouteFoundError)


async def test_a_retried_request_that_is_cancelled_while_it_waits_is_never_sent(
    scripted: ScriptedBroker,
) -> None:
    async with gone(scripted) as it, anyio.create_task_group() as tasks:
        request = Outcome(tasks, lambda: it.client.request("a", {}, retry=True))
        await anyio.wait_all_tasks_blocked()
        request.scope.cancel()
        await until(lambda: request.over)
        assert it.client.stats().pending == 0
        assert await it.come_back() == []


# While services are on their way back


NOBODY = error("NO_ROUTE_FOUND", "nobody yet")


async def come_back(scripted: ScriptedBroker, client: MessageBrokerClient) -> ScriptedConnection:
    """Lose the connection and get another."""
    number = len(scripted.connections)
    await scripted.connections[-1].drop()
    connection = await scripted.connection(number + 1)
    await until(lambda: client.connected)
    return connection


async def test_after_a_reconnect_a_retried_request_waits_for_the_service_to_be_back(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["a"] = NOBODY
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(scripted.url, **QUICK) as client,
            anyio.create_task_group() as tasks,
        ):
            connection = await come_back(scripted, client)
            request = Outcome(
                tasks, lambda: client.request("a", {"n": 1}, timeout=4_000, retry=True)
            )
            tries = [await connection.wait_for(b"request:a:", number) for number in range(1, 6)]
            assert client.stats().pending == 1
            scripted.answers["a"] = b'"the answer"'
            assert (await request.succeeds()).payload == "the answer"
            assert client.stats().pending == 0
    fields = [each.split(b"\n")[0].split(b":") for each in tries]
    assert len({tuple(each[:-1]) for each in fields}) == 1  # the same id each time
    times = [int(each[-1]) for each in fields]
    assert times == sorted(times, reverse=True)
    assert 2_500 < times[-1] < times[0] == 4_000


async def test_a_request_that_waited_for_the_connection_waits_for_the_service_as_well(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["a"] = NOBODY
    async with gone(scripted) as it, anyio.create_task_group() as tasks:
        request = Outcome(tasks, lambda: it.client.request("a", {}, retry=True))
        await anyio.wait_all_tasks_blocked()
        await it.come_back()
        await scripted.connections[-1].wait_for(b"request:a:", 2)
        scripted.answers["a"] = b'"the answer"'
        assert (await request.succeeds()).payload == "the answer"


async def test_nobody_answers_once_the_services_should_be_back_or_the_time_is_over(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["a"] = NOBODY
    with anyio.fail_after(30):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            await come_back(scripted, client)
            begun = anyio.current_time()
            with pytest.raises(NoRouteFoundError, match="nobody yet"):
                await client.request("a", {}, timeout=1_000, retry=True)
            assert 0.99 < anyio.current_time() - begun < 1.1
            with pytest.raises(NoRouteFoundError, match="nobody yet"):
                await client.request("a", {}, retry=True)
            assert 2.9 < anyio.current_time() - begun < 3.1  # backoff_max and 3 s
            sent = len(scripted.connections[-1].starting(b"request:a:"))
            with pytest.raises(NoRouteFoundError):
                await client.request("a", {}, retry=True)
            assert len(scripted.connections[-1].starting(b"request:a:")) == sent + 1
            assert client.stats().pending == 0


@pytest.mark.parametrize("retry", [True, False])
async def test_nobody_answers_is_raised_at_once_without_a_reconnect_or_without_retry(
    scripted: ScriptedBroker, retry: bool
) -> None:
    scripted.answers["a"] = NOBODY
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            if not retry:
                await come_back(scripted, client)
            with pytest.raises(NoRouteFoundError):
                await client.request("a", {}, retry=retry)
            assert len(scripted.connections[-1].starting(b"request:a:")) == 1


async def test_nobody_answers_is_not_retried_if_a_service_passes_it_on(
    scripted: ScriptedBroker,
) -> None:
    """A handler that got no answer from somebody else has handled the request."""
    passed_on = b'error:{"code":"NO_ROUTE_FOUND","message":"nobody","details":{"topic":"b"}}'
    scripted.answers["a"] = passed_on
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            connection = await come_back(scripted, client)
            with pytest.raises(NoRouteFoundError) as caught:
                await client.request("a", {}, retry=True)
            assert caught.value.details == {"topic": "b"}
            assert len(connection.starting(b"request:a:")) == 1


async def test_a_request_between_two_tries_can_be_lost_again_cancelled_and_closed(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["a"] = NOBODY
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with MessageBrokerClient(scripted.url, **QUICK) as client:
                connection = await come_back(scripted, client)
                lost, cancelled, closed = (
                    Outcome(tasks, lambda: client.request("a", {}, retry=True)) for _ in range(3)
                )
                await connection.wait_for(b"request:a:", 9)
                cancelled.scope.cancel()
                connection = await come_back(scripted, client)
                await connection.wait_for(b"request:a:", 4)
                assert client.stats().pending == 2
                answer = connection.starting(b"request:a:")[0]
                scripted.answers["a"] = None
                await connection.wait_for(b"request:a:", 6)
                connection.answer(answer, b'"the answer"')
                await until(lambda: lost.over or closed.over)
            await lost.ends()
            await closed.ends()
            assert sorted(str(type(each.error).__name__) for each in (lost, closed)) == [
                "ConnectionLost",
                "NoneType",
            ]
