"""The commands of `mb`, as everybody in the table of rules."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

from click.testing import CliRunner

from mb_tools.cli import main

from .rules import CLIENTS, RULES, Outcome, Rule, expected, forwarded
from .scene import Scene, access_file, serving, token_of

DOCS = Path(__file__).parents[2] / "docs"
# Those that do one thing each; `mb top` does several.
COMMANDS = {
    "ask system.heartbeat": ["ping", "-n", "1"],
    "ask system.service.list": ["services"],
    "ask system.topic.list": ["topics"],
    "ask system.metrics": ["metrics"],
    "ask system.log.subscribe": ["log", "-n", "1", "--level", "debug"],
    "follow system.message": ["trace", "-n", "1"],
}
# Starting a client takes longer than what it does: these are enough here.
TOPICS = ("weather.oslo", "weather.current", "open.door", "open.hours", "open.+")


def command_of(rule: Rule) -> list[str] | None:
    """The arguments for `mb`, or None if no command does this."""
    payload = json.dumps(rule.name)
    if rule.topic not in TOPICS:
        return COMMANDS.get(rule.name)
    return {
        "publish": ["pub", rule.topic, payload],
        "confirm": ["pub", rule.topic, payload, "--confirm"],
        "request": ["request", rule.topic, payload],
        "subscribe": ["sub", rule.topic, "-n", "1"],
        "respond": ["reply", rule.topic, "--echo", "-n", "1", "--priority", "1000"],
    }.get(rule.do)


def run(arguments: list[str], rule: Rule, scene: Scene, user: str | None) -> Outcome:
    environ = {"MB_URL": scene.broker.url_of("tcp")}
    if user is not None:
        environ["MB_TOKEN"] = token_of(user)
    with ExitStack() as stack:
        if "-n" in arguments and arguments[0] != "ping":  # it waits for a message
            topic = "system.log" if rule.topic == "system.log.subscribe" else rule.topic
            stack.callback(scene.portal.start_task_soon(scene.poke, rule.do, topic).cancel)
        result = CliRunner(env=environ).invoke(main, arguments, prog_name="mb")
    if result.exit_code == 0:
        return ("done",)
    assert result.exit_code == 1
    (code,) = re.findall(r"\b(FORBIDDEN|UNAUTHORIZED): ", result.stderr)
    return (code,)


def test_commands(tmp_path: Path) -> None:
    rules = [(rule, arguments) for rule in RULES if (arguments := command_of(rule)) is not None]
    results, wanted = {}, {}
    with ExitStack() as stack:
        scenes = {
            is_open: stack.enter_context(
                serving("asyncio", access_file(tmp_path / f"{is_open}", anonymous=is_open), "tcp")
            )
            for is_open in (False, True)
        }
        for client in CLIENTS:
            scene = scenes[client.open]
            for rule, arguments in rules:
                results[client.label, rule.name] = run(arguments, rule, scene, client.user)
                wanted[client.label, rule.name] = expected(rule, client)[:1]
                if rule.do == "publish":  # it does not wait for the broker
                    wanted[client.label, rule.name] = ("done",)
            assert scene.take_seen() == forwarded(client, (rule for rule, _ in rules))
    assert results == wanted


def test_every_command_that_needs_a_part_of_the_broker_is_run() -> None:
    access = " ".join((DOCS / "access.md").read_text().split())
    needs = access.partition("Commands need `system` as well:")[2].partition("and the broker's")[0]
    commands = set(re.findall(r"`mb (\w+)`", needs)) - {"top"}
    assert commands == {"services", "topics", "trace", "log", "metrics"}
    assert commands <= {arguments[0] for arguments in COMMANDS.values()}
