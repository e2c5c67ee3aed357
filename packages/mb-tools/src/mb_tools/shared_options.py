"""Options and arguments that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import click

__all__ = [
    "COUNT",
    "SECONDS",
    "PayloadCommand",
    "count_option",
    "json_option",
    "payload_argument",
    "reconnect_option",
    "timeout_option",
]

F = TypeVar("F", bound=Callable[..., Any])

_NEGATIVE = re.compile(r"-[0-9].*")


class _WholeNumber(click.IntRange):
    name = "whole number"


class _Seconds(click.FloatRange):
    """click's range, but rejects nan, which any range accepts because comparisons with it are
    false."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return seconds


COUNT = _WholeNumber(1)
SECONDS = _Seconds(0.001, 86_400)

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON value per line even on a terminal, as on a pipe.",
)

reconnect_option = click.option(
    "--reconnect",
    is_flag=True,
    help="Wait for the broker, and reconnect after a loss, instead of exiting with status 3.",
)


def count_option(what: str) -> Callable[[F], F]:
    """Add `-n`: stop after COUNT."""
    return click.option(
        "-n", "count", type=COUNT, metavar="COUNT", help=f"Stop after COUNT {what}."
    )


def timeout_option(text: str, default: int | None = None) -> Callable[[F], F]:
    """Add `--timeout`, in milliseconds as on the wire."""
    return click.option(
        "--timeout",
        type=_WholeNumber(1, 3_600_000),
        default=default,
        show_default=default is not None,
        metavar="MS",
        help=text,
    )


def payload_argument(function: F) -> F:
    """Add PAYLOAD and `--text`."""
    function = click.option("--text", is_flag=True, help="Send the payload as a JSON string.")(
        function
    )
    return click.argument("payload", required=False, metavar="[PAYLOAD]")(function)


class PayloadCommand(click.Command):
    """A command whose last argument may be a negative number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click would parse it as an option. After -- it is an argument.
        for index, (before, each) in enumerate(pairwise(["", *args])):
            if before == "--" or each == "--":
                break
            if _NEGATIVE.fullmatch(each) and not self._takes_value(before):
                args = [*args[:index], *args[index + 1 :], "--", each]
                break
        return super().parse_args(ctx, args)

    def _takes_value(self, name: str) -> bool:
        return any(
            isinstance(param, click.Option) and not param.is_flag and name in param.opts
            for param in self.params
        )
