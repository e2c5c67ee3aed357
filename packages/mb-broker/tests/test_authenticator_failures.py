"""Authenticators of plugins that fail, or return what they should not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mb_broker.access import Access, Grants, Role, User
from mb_broker.access.users import Authentication
from mb_core.authenticators import Credentials, Identity
from mb_core.errors import UnauthorizedError

from .conftest import Bench, Reports

GRANTS = Grants([Role(system=["services"])])
TOKEN = "mb_this-is-a-secret"


def access(authenticate: Any) -> Access:
    return Access([User("ada", GRANTS)], None, [Authentication("odd", authenticate)])


def identity(*args: Any) -> Any:
    return lambda credentials: Identity(*args)


def raises(error: BaseException) -> Any:
    def authenticate(credentials: Credentials) -> Identity:
        raise error

    return authenticate


FAILURES = {
    "token": lambda credentials: credentials.token or "certificate",
    "bool": lambda credentials: True,
    "tuple": lambda credentials: ("ada", ("reader",)),
    "no name": identity(None, ("reader",)),
    "unhashable name": identity(["ada"], ("reader",)),
    "empty name": identity("", ("reader",)),
    "line break": identity("ada\nx", ("reader",)),
    "surrogate": identity("ada\ud800", ("reader",)),
    "long name": identity("a" * 100_000, ("reader",)),
    "text as roles": identity("ada", "reader"),
    "number as roles": identity("ada", 5),
    "unhashable role": identity("ada", (["reader"],)),
    "expires nan": identity("ada", None, math.nan),
    "expires text": identity("ada", None, "2026-01-01"),
    "expires huge": identity("ada", None, 10**400),
    "look-up": lambda credentials: {}[credentials.token],
    "exit": raises(SystemExit(3)),
}


@pytest.mark.parametrize("authenticate", FAILURES.values(), ids=FAILURES)
def test_a_failing_authenticator_is_nobodys_and_shows_no_token(
    authenticate: Any, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(access=access(authenticate))
    by_handshake = bench.router.connect(bench.now, Credentials(token=TOKEN))
    assert by_handshake.user is None
    bench.router.disconnect(by_handshake, bench.now)
    client = bench.join()
    for _ in range(5):
        error = client.ask("authenticate", {"token": TOKEN})["error"]
        assert error["code"] == "SERVICE_UNAVAILABLE"
    assert client.service.user is None
    bench.advance(60)
    assert TOKEN not in caplog.text
    internal = [report for report in reports() if report.startswith("internal error")]
    assert len(internal) <= 1  # of six failures in a second


@pytest.mark.parametrize("authenticate", FAILURES.values(), ids=FAILURES)
def test_a_reload_with_a_failing_authenticator_disconnects_whom_it_does_not_know(
    authenticate: Any, reports: Reports
) -> None:
    bench = Bench(access=access(identity("ada")))
    clients = [bench.join() for _ in range(3)]
    for client in clients:
        client.ask("authenticate", {"token": TOKEN})
    bench.router.replace_access(access(authenticate), bench.now)
    bench.advance(0)
    assert [client for client, _ in bench.rejected] == clients


def test_the_text_of_a_refusal_may_be_anything() -> None:
    for given, shown in (("a\ud800", "a\\ud800"), (5, "5")):
        bench = Bench(access=access(raises(UnauthorizedError(given))))  # type: ignore[arg-type]
        error = bench.join().ask("authenticate", {"token": TOKEN})["error"]
        assert (error["code"], error["message"]) == ("UNAUTHORIZED", shown)
