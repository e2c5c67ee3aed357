"""Logs the messages of this program's MB clients, and how long their requests take."""

from __future__ import annotations

import logging

from mb_core import MBError, Message, hookimpl

_log = logging.getLogger("mb_log")


@hookimpl
def mb_message_sending(message: Message) -> None:
    _log_message("sent", message)


@hookimpl
def mb_message_received(message: Message) -> None:
    _log_message("received", message)


@hookimpl
def mb_request_finished(topic: str, duration: float, outcome: Message | MBError | None) -> None:
    ending = "given up" if outcome is None else "answered"
    if isinstance(outcome, MBError):
        ending = str(outcome)
    _log.info("request %s took %.1f ms: %s", topic, duration * 1000, ending)


def _log_message(what: str, message: Message) -> None:
    action, size = message.action.value, len(message.raw_payload)
    _log.info("%s %s %s, %d bytes", what, action, message.topic, size)
