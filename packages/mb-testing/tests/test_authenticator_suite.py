"""The suite for authenticators finds what is wrong with one: no check of it is empty."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mb_core.authenticators import Authenticator, Credentials, Identity
from mb_core.errors import UnauthorizedError
from mb_core.hookspecs import hookimpl
from mb_core.plugins import Plugins
from mb_testing import AuthenticatorSuite
from mb_testing.authenticator_suite import requirements, suite
from mb_testing.conformance import ContractBroken, Requirement

Made = Callable[[Credentials], Any]


class GuestSuite(AuthenticatorSuite):
    """Of an authenticator without a bug; those with one change `create` or `authenticate`."""

    __test__ = False

    def __init_subclass__(cls) -> None:
        cls.authenticator = Authenticator("guests", lambda table, folder: cls().create(table))

    def access_file(self, tmp_path: Path) -> str:
        return """
            [roles.reader]
            subscribe = ["#"]
            [authenticators.guests]
            prefix = "guest-"
            role = "reader"
        """

    def users(self, tmp_path: Path) -> dict[str, Credentials]:
        return {
            "ada": Credentials("guest-ada"),
            "machine": Credentials(None, ("CN=guest-machine",)),
        }

    def wrong_credentials(self, tmp_path: Path) -> list[Credentials]:
        return [
            Credentials("guest-"),
            Credentials("visitor-ada"),
            Credentials(None, ("CN=visitor",)),
        ]

    def create(self, table: Any) -> Made:
        unknown = set(table) - {"prefix", "role"}
        if unknown:
            raise ValueError(f"unknown setting {min(unknown)!r}")
        prefix, role = table.get("prefix"), table.get("role")
        if not isinstance(prefix, str) or not isinstance(role, str):
            raise ValueError("prefix and role are required: strings")
        return lambda credentials: self.authenticate(credentials, prefix, role)

    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        shown = credentials.token
        if shown is None:
            shown = next((name[3:] for name in credentials.certificate), "")
        if not shown.startswith(prefix):
            return None
        name = shown.removeprefix(prefix)
        if not name or not name.isprintable():
            raise UnauthorizedError("a guest needs a name")
        return Identity(name, (role,))


class TestGuests(GuestSuite):
    """Passes everything."""

    __test__ = True

    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Plugin:
            @hookimpl
            def mb_register_authenticators(self) -> list[Authenticator]:
                return [TestGuests.authenticator]

        plugins = Plugins()
        plugins.register(Plugin(), "mb-guests")
        monkeypatch.setattr(suite, "installed_plugins", lambda: plugins)


class NotInstalled(GuestSuite):
    pass


class TakesItsSettings(GuestSuite):
    def create(self, table: Any) -> Made:
        made = super().create(dict(table))
        table.clear()
        return made


class ReturnsNothing(GuestSuite):
    def create(self, table: Any) -> Any:
        super().create(table)


class IgnoresUnknownSettings(GuestSuite):
    def create(self, table: Any) -> Made:
        return super().create({key: table.get(key) for key in ("prefix", "role")})


class NeedsItsSettings(GuestSuite):
    def create(self, table: Any) -> Made:
        return super().create({"prefix": table["prefix"], "role": table["role"]})


class ExplainsAtLength(GuestSuite):
    def create(self, table: Any) -> Made:
        try:
            return super().create(table)
        except ValueError as error:
            raise ValueError(f"{error}\nSee the manual.") from error


class ShowsItsSettings(GuestSuite):
    def secrets(self, tmp_path: Path) -> list[str]:
        return ["guest-"[:6] * 2]

    def access_file(self, tmp_path: Path) -> str:
        return super().access_file(tmp_path).replace('"guest-"', '"guest-guest-"')

    def create(self, table: Any) -> Made:
        try:
            return super().create(table)
        except ValueError as error:
            raise ValueError(f"{error}: {table}") from error


class LetsNobodyIn(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        if credentials == Credentials():
            return Identity("nobody", (role,))
        return super().authenticate(credentials, prefix, role)


class KnowsOthers(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        found = super().authenticate(credentials, prefix, role)
        return Identity("guest", found.roles) if found is not None else None


class HasListsOfRoles(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        found = super().authenticate(credentials, prefix, role)
        return Identity(found.name, [role]) if found is not None else None  # type: ignore[arg-type]


class IsExpired(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        found = super().authenticate(credentials, prefix, role)
        return Identity(found.name, (role,), 60) if found is not None else None


class IsACoroutine(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        found = asyncio.Future[None](loop=asyncio.new_event_loop())
        found.get_loop().close()
        return found


class LetsEverybodyIn(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        if credentials == Credentials():
            return None
        name = (credentials.token or credentials.certificate[0][3:]).removeprefix(prefix)
        return Identity(name or "guest", (role,))


class Counts(GuestSuite):
    numbers = itertools.count()

    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        found = super().authenticate(credentials, prefix, role)
        return Identity(found.name, (role, str(next(self.numbers)))) if found is not None else None


class HasOtherNamesAfterReading(GuestSuite):
    numbers = itertools.count()

    def create(self, table: Any) -> Made:
        made, number = super().create(table), next(self.numbers)

        def authenticate(credentials: Credentials) -> Any:
            found = made(credentials)
            return Identity(f"{found.name}{number}", found.roles) if found is not None else None

        return authenticate


class Encodes(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        (credentials.token or "").encode()
        return super().authenticate(credentials, prefix, role)


class ExpectsNames(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        assert credentials.certificate != ("",)
        return super().authenticate(credentials, prefix, role)


class AnswersAtLength(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        try:
            return super().authenticate(credentials, prefix, role)
        except UnauthorizedError as error:
            raise UnauthorizedError(f"{error.message}\n\nGo away.") from error


class Asks(GuestSuite):
    """Takes its time, as if it asked another server."""

    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        time.sleep(0.11)
        return super().authenticate(credentials, prefix, role)


class ShowsTokens(GuestSuite):
    def wrong_credentials(self, tmp_path: Path) -> list[Credentials]:
        return [Credentials("visitor-\u202e"), Credentials("visitor-ada")]

    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        if (credentials.token or "").startswith("visitor-"):
            raise UnauthorizedError(f"{credentials.token} is unknown")
        return super().authenticate(credentials, prefix, role)


class ShowsTokensInDetails(ShowsTokens):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        try:
            return super().authenticate(credentials, prefix, role)
        except UnauthorizedError as error:
            details = {"token": credentials.token}
            raise UnauthorizedError("unknown", details=details) from error


class LogsTokens(GuestSuite):
    def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
        logging.getLogger("mb_guests").debug("token %s", credentials.token)
        return super().authenticate(credentials, prefix, role)


class FailsInTheEnd(GuestSuite):
    """Works until the broker has its own."""

    count = itertools.count()

    def create(self, table: Any) -> Made:
        return super().create(table) if next(self.count) < 2 else lambda credentials: None


class AcceptsNobodyTwice(GuestSuite):
    """What it knows does not survive that the file is read again."""

    count = itertools.count()

    def create(self, table: Any) -> Made:
        return super().create(table) if next(self.count) < 3 else lambda credentials: None


CASES: list[tuple[type[GuestSuite], str, str]] = [
    (NotInstalled, "it_is_found_by_its_name_when_it_is_installed", "FOUND"),
    (TakesItsSettings, "create_leaves_its_table_as_it_is", "CREATES"),
    (ReturnsNothing, "create_leaves_its_table_as_it_is", "CREATES"),
    (IgnoresUnknownSettings, "mistakes_in_the_table_are_value_errors", "UNKNOWN"),
    (NeedsItsSettings, "mistakes_in_the_table_are_value_errors", "MISTAKES"),
    (ExplainsAtLength, "mistakes_in_the_table_are_value_errors", "MISTAKES"),
    (ShowsItsSettings, "mistakes_in_the_table_are_value_errors", "HIDDEN"),
    (LetsNobodyIn, "a_client_that_has_shown_nothing_is_not_known", "NOBODY"),
    (KnowsOthers, "users_are_known", "KNOWS"),
    (HasListsOfRoles, "users_are_known", "TYPES"),
    (IsExpired, "users_are_known", "TYPES"),
    (IsACoroutine, "users_are_known", "TYPES"),
    (LetsEverybodyIn, "wrong_credentials_are_refused", "REFUSES"),
    (LetsEverybodyIn, "a_broker_lets_users_in_and_no_others", "WORKS"),
    (Counts, "identities_are_stable", "STABLE"),
    (HasOtherNamesAfterReading, "identities_are_stable", "STABLE"),
    (Encodes, "whatever_a_client_sends_only_unauthorized_is_raised", "RAISES"),
    (ExpectsNames, "whatever_a_client_sends_only_unauthorized_is_raised", "RAISES"),
    (AnswersAtLength, "whatever_a_client_sends_only_unauthorized_is_raised", "RAISES"),
    (Asks, "it_returns_quickly", "QUICK"),
    (ShowsTokens, "nothing_shows_a_secret", "HIDDEN"),
    (ShowsTokensInDetails, "nothing_shows_a_secret", "HIDDEN"),
    (LogsTokens, "nothing_shows_a_secret", "HIDDEN"),
    (KnowsOthers, "a_broker_lets_users_in_and_no_others", "WORKS"),
    (FailsInTheEnd, "a_broker_lets_users_in_and_no_others", "WORKS"),
    (AcceptsNobodyTwice, "users_stay_when_the_broker_reads_the_file_again", "STABLE"),
]


@pytest.mark.parametrize(("broken", "test", "requirement"), CASES)
def test_an_authenticator_with_a_bug_fails_the_test_for_it(
    broken: type[GuestSuite], test: str, requirement: str, tmp_path: Path
) -> None:
    run = getattr(broken(), f"test_{test}")
    fixtures = {"tmp_path": tmp_path, "anyio_backend": "asyncio"}
    with pytest.raises(ContractBroken) as caught:
        run(**{name: fixtures[name] for name in inspect.signature(run).parameters})
    expected: Requirement = getattr(requirements, requirement)
    assert f"Expected: {expected.text}\n  Contract: {expected.contract}" in str(caught.value)


def test_an_authenticator_that_hangs_is_reported_with_the_place(tmp_path: Path) -> None:
    class Hangs(GuestSuite):
        time_limit = 0.1

        def authenticate(self, credentials: Credentials, prefix: str, role: str) -> Any:
            time.sleep(1)

    with pytest.raises(ContractBroken, match=r"(?s)still busy after 0\.1 s.*time\.sleep\(1\)"):
        Hangs().test_users_are_known(tmp_path)


def test_every_test_of_the_suite_finds_a_bug() -> None:
    named = {f"test_{test}" for _, test, _ in CASES}
    assert {name for name in dir(AuthenticatorSuite) if name.startswith("test_")} == named


def test_the_documented_authenticator_passes_the_documented_tests(tmp_path: Path) -> None:
    docs = Path(__file__).parents[3] / "docs"
    create = re.search(r"^def create.*?(?=^class )", (docs / "plugins.md").read_text(), re.M | re.S)
    tests = re.search(
        r'^```python title="tests/test_guests.py"\n(.*?)^```',
        (docs / "testing.md").read_text(),
        re.M | re.S,
    )
    assert create is not None
    assert tests is not None
    (tmp_path / "test_guests.py").write_text(tests[1])
    (tmp_path / "mb_guests.py").write_text(
        "from mb_core import UnauthorizedError, hookimpl\n"
        "from mb_core.authenticators import Authenticator, Identity\n"
        f"{create[0]}"
        'GUESTS = Authenticator("guests", create)\n'
        "@hookimpl\n"
        "def mb_register_authenticators():\n"
        "    return [GUESTS]\n"
    )
    installed = tmp_path / "mb_guests-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mb-guests\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[mb.authenticators]\nguests = mb_guests\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            tmp_path,
        ],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "14 passed" in done.stdout
