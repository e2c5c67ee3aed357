"""`mb pub` and `mb sub`, as processes beside each other."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from typing import Any

import pytest


def lines(process: subprocess.Popen[str], count: int) -> list[Any]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_sub_prints_a_line_of_json_for_each_message(mb: Any, peer: Any) -> None:
    with mb.started("sub", "weather.#", "-n", "2") as sub:
        peer.wait_for_subscriber("weather.#")
        assert mb.process("pub", "weather.oslo", '{"degrees": 3}').returncode == 0
        assert mb("pub", "weather.rome", "21.50", "--confirm").returncode == 0
        out, err = sub.communicate(timeout=60)
    first, second = out.splitlines()
    oslo = json.loads(first)
    assert (oslo["topic"], oslo["action"], oslo["payload"]) == (
        "weather.oslo",
        "publish",
        {"degrees": 3},
    )
    assert len(oslo["requestId"]) == 36
    assert second.endswith('"payload":21.50}')  # numbers stay as they were written
    assert (sub.returncode, err) == (0, "")


def test_a_message_that_matches_two_patterns_is_printed_once(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.#", "a.b", "A.B", "c.+", "-n", "2") as sub:
        for pattern in ("a.#", "a.b", "c.+"):
            peer.wait_for_subscriber(pattern)
        peer.publish("a.b", 1)
        assert lines(sub, 1)[0]["payload"] == 1
        peer.publish("c.d", 2)
        assert lines(sub, 1)[0]["payload"] == 2
        assert sub.wait(60) == 0


def test_a_payload_that_is_no_json_comes_as_text(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.b", "-n", "2") as sub:
        peer.wait_for_subscriber("a.b")
        connection = peer.client._supervisor.connection
        for payload in (b"", b"no \x1b json"):

            async def send(payload: bytes = payload) -> None:
                connection.link.send(b"publish:a.b:1.0.0\n" + payload)

            peer.call(send)
        empty, text = lines(sub, 2)
        assert sub.wait(60) == 0
    assert empty["payload"] is None
    assert "text" not in empty
    assert (text["payload"], text["text"]) == (None, "no \x1b json")


def test_on_a_terminal_a_message_is_a_line_for_people(mb: Any, peer: Any) -> None:
    shown: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: shown.append(mb.on_terminal("sub", "a.b", "-n", "1")))
    thread.start()
    peer.wait_for_subscriber("a.b")
    peer.publish("a.b", {"text": "\x9b31m"})
    thread.join(60)
    status, text = shown[0]
    assert status == 0
    assert text.startswith(f"mb sub: listening to a.b at {mb.url}; Ctrl-C to stop\n")
    assert "\x1b[36ma.b\x1b[0m" in text
    assert '{"text":"\\x9b31m"}' in text  # control characters of others are not carried out


def test_what_does_not_come_in_time_is_status_1(mb: Any) -> None:
    done = mb("sub", "a.b", "-n", "2", "--timeout", "50")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mb sub: timed out after 50 ms: received 0 of 2 messages\n"
    assert mb("sub", "a.b", "--timeout", "50").returncode == 0


def test_the_time_that_it_waits_for_a_broker_counts(mb: Any) -> None:
    for more, status in ((["-n", "1"], 1), ([], 0)):
        done = mb(
            "sub", "a.b", "--reconnect", "--timeout", "300", "--url", "tcp://127.0.0.1:1", *more
        )
        assert done.returncode == status
        told = done.stderr.splitlines()
        assert "nobody listens on 127.0.0.1:1" in told[0]
        timed_out = "mb sub: timed out after 300 ms: received 0 of 1 messages"
        assert (told[-1] == timed_out) is bool(status)


def test_ctrl_c_ends_sub_with_status_0(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.b") as sub:
        peer.wait_for_subscriber("a.b")
        sub.send_signal(signal.SIGINT)
        out, err = sub.communicate(timeout=60)
    assert (sub.returncode, out, err) == (0, "", "")


def test_who_stops_reading_ends_sub_even_where_nothing_comes(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.b") as sub:
        peer.wait_for_subscriber("a.b")
        assert sub.stdout is not None
        sub.stdout.close()
        assert sub.wait(60) == 0
        assert sub.stderr is not None
        assert sub.stderr.read() == ""


def test_head_gets_its_line_and_nobody_complains(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.b") as sub:
        peer.wait_for_subscriber("a.b")
        with subprocess.Popen(["head", "-n", "1"], stdin=sub.stdout, stdout=-1) as head:
            assert sub.stdout is not None
            sub.stdout.close()
            peer.publish("a.b", 1)
            out, _ = head.communicate(timeout=60)
        assert json.loads(out)["payload"] == 1
        assert sub.wait(60) == 0
        assert sub.stderr is not None
        assert sub.stderr.read() == ""


def test_json_on_a_terminal_is_the_same_json_with_hidden_characters_escaped(
    mb: Any, peer: Any
) -> None:
    shown: list[Any] = []
    command = ("sub", "a.b", "-n", "1", "--json")
    thread = threading.Thread(target=lambda: shown.append(mb.on_terminal(*command)))
    thread.start()
    peer.wait_for_subscriber("a.b")
    peer.publish("a.b", "left\u202eright\U000e0001\N{SNOWMAN}")
    thread.join()
    [(status, text)] = shown
    assert status == 0
    assert "left\\u202eright\\udb40\\udc01\N{SNOWMAN}" in text
    assert json.loads(text)["payload"] == "left\u202eright\U000e0001\N{SNOWMAN}"


def test_a_reader_that_pauses_loses_nothing(mb: Any, peer: Any) -> None:
    count, filler = 400, "x" * 4_000
    with mb.started("sub", "a.b", "-n", str(count)) as sub:
        peer.wait_for_subscriber("a.b")
        for number in range(count):  # 20 times what a pipe holds; sub is still connected then
            peer.publish("a.b", [number, filler])
        assert len(peer.request("system.topic.list", {})["topics"]) == 1
        assert [line["payload"][0] for line in lines(sub, count)] == list(range(count))
        assert sub.wait(60) == 0


def test_pub_reads_stdin(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.b", "-n", "6") as sub:
        peer.wait_for_subscriber("a.b")
        assert mb.process("pub", "a.b", "-", stdin='{\n "x":  1\n}\n').returncode == 0
        assert mb("pub", "a.b", "-", stdin="[2]").returncode == 0
        assert mb("pub", "a.b", "-", stdin="").returncode == 0
        assert mb("pub", "a.b", "-", "--text", stdin="a text\n").returncode == 0
        assert mb("pub", "a.b", "hello", "--text").returncode == 0
        assert mb("pub", "a.b", '"\N{SNOWMAN}"').returncode == 0
        payloads = [line["payload"] for line in lines(sub, 6)]
    assert payloads == [{"x": 1}, [2], {}, "a text", "hello", "\N{SNOWMAN}"]


def test_pub_without_a_payload_leaves_stdin_alone(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.b", "-n", "1") as sub:
        peer.wait_for_subscriber("a.b")
        assert mb("pub", "a.b", stdin="the lines of a shell's loop\n").returncode == 0
        assert [line["payload"] for line in lines(sub, 1)] == [{}]


@pytest.mark.parametrize(
    ("arguments", "payload"),
    [
        (["-5"], -5),
        (["-1.5e3", "--confirm"], -1.5e3),
        (["--confirm", "-5"], -5),
        (["--", "-5"], -5),
    ],
)
def test_a_payload_may_be_a_negative_number(
    mb: Any, peer: Any, arguments: list[str], payload: float
) -> None:
    with mb.started("sub", "a.b", "-n", "1") as sub:
        peer.wait_for_subscriber("a.b")
        assert mb("pub", "a.b", *arguments).returncode == 0
        assert [line["payload"] for line in lines(sub, 1)] == [payload]


def test_a_negative_number_behind_an_option_is_its_value(mb: Any) -> None:
    done = mb("request", "a.b", "--timeout", "-5")
    assert done.returncode == 2
    assert "-5 is not in the range" in done.stderr


def test_lines_are_published_one_by_one_as_they_come(mb: Any, peer: Any) -> None:
    with (
        mb.started("sub", "a.b", "-n", "3") as sub,
        mb.started("pub", "a.b", "--lines", stdin=subprocess.PIPE) as pub,
    ):
        peer.wait_for_subscriber("a.b")
        pub.stdin.write("1\n")
        pub.stdin.flush()
        assert lines(sub, 1)[0]["payload"] == 1  # though stdin goes on
        pub.stdin.write('\n{"two":\t2}\r\n"the end"')
        pub.stdin.close()
        assert [line["payload"] for line in lines(sub, 2)] == [{"two": 2}, "the end"]
        assert pub.wait(60) == 0


def test_lines_of_text_need_not_be_json(mb: Any, peer: Any) -> None:
    with mb.started("sub", "a.b", "-n", "2") as sub:
        peer.wait_for_subscriber("a.b")
        assert mb("pub", "a.b", "--lines", "--text", stdin='GET /\n"quoted"\n').returncode == 0
        assert [line["payload"] for line in lines(sub, 2)] == ["GET /", '"quoted"']


def test_the_line_that_fails_is_named(mb: Any, peer: Any) -> None:
    done = mb("pub", "a.b", "--lines", stdin="1\n\nnope\n")
    assert done.returncode == 2
    assert done.stderr.startswith("mb pub: line 2 of stdin is not valid JSON: ")
    done = mb("pub", "a.b", "--lines", "--confirm", stdin="1\n2\n")
    assert done.returncode == 1
    assert done.stderr == (
        "mb pub: line 1 of stdin: NO_ROUTE_FOUND: nobody is subscribed to publish a.b\n"
    )


def test_confirm_tells_whether_anybody_listens(mb: Any) -> None:
    assert mb("pub", "a.b", "1").returncode == 0
    done = mb("pub", "a.b", "1", "--confirm")
    assert done.returncode == 1
    assert done.stderr == "mb pub: NO_ROUTE_FOUND: nobody is subscribed to publish a.b\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["a b", "1"], "invalid topic 'a b'", id="topic"),
        pytest.param(["a.#", "1"], "invalid topic 'a.#'", id="pattern"),
        pytest.param(["a.b", "nope"], "the payload is not valid JSON: ", id="payload"),
        pytest.param(["a.b", "1", "--lines"], "--lines reads payloads from stdin", id="both"),
        pytest.param(["a.b", f'"{"x" * 20_000}"'], "the limit is 16384", id="too large"),
    ],
)
def test_what_can_t_be_published_is_status_2(mb: Any, arguments: list[str], said: str) -> None:
    done = mb("pub", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mb pub: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_bytes_that_are_no_text_are_refused(mb: Any) -> None:
    done = mb("pub", "a.b", "-", stdin=b'"\xff"')
    assert done.returncode == 2
    assert "the payload is not UTF-8" in done.stderr
