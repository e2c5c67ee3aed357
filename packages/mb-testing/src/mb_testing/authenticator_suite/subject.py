"""The authenticator under test, held to what holds for each call."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mb_broker.access import read_access_file
from mb_broker.plugin import mb_register_transports
from mb_core.authenticators import Authenticate, Authenticator, Credentials, Identity
from mb_core.errors import LocalProtocolError, UnauthorizedError
from mb_core.hookspecs import hookimpl
from mb_core.plugins import Plugins

from ..conformance import expect, violation
from .inputs import CERTIFICATES, TOKENS, changes, random_texts
from .requirements import CREATES, HIDDEN, MISTAKES, RAISES, TYPES

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["Subject", "shortened", "watched_log"]

_MIN_SECRET = 8
"""Characters: a shorter text may be in an error by chance."""


class Subject:
    """The authenticator under test, with what the suite's subclass says about it."""

    def __init__(self, suite: Settings, folder: Path) -> None:
        text = suite.access_file(folder)
        self.path = folder / "access.toml"
        self.path.write_text(text, encoding="utf-8")
        self.path.chmod(0o600)
        self.users = dict(suite.users(folder))
        self.wrong = list(suite.wrong_credentials(folder))
        tokens = [each.token for each in [*self.users.values(), *self.wrong]]
        secrets = [*tokens, *suite.secrets(folder)]
        self._secrets = [secret for secret in secrets if secret and len(secret) >= _MIN_SECRET]
        self.authenticator = suite.authenticator
        self._folder = folder
        self.table = suite.table(folder, text)
        self.plugins = Plugins()
        self.plugins.register(_UnderTest(suite.authenticator), "the authenticator under test")
        try:
            read_access_file(self.path, self.plugins.authenticator)
        except LocalProtocolError as error:
            raise violation(CREATES, str(error)) from error
        self.authenticate = self.create()

    def create(self) -> Authenticate:
        before = deepcopy(self.table)
        authenticate = self.authenticator.create(self.table, self._folder)
        expect(CREATES, self.table == before, f"the table is {shortened(self.table)} afterwards")
        expect(CREATES, callable(authenticate), f"it returned {authenticate!r}")
        return authenticate

    def refusal(self, table: dict[str, Any]) -> bool:
        """Return whether `create` raises ValueError for this table, as it may."""
        try:
            with watched_log() as entries:
                self.authenticator.create(table, self._folder)
        except ValueError as error:
            text = str(error)
            expect(MISTAKES, len(text.splitlines()) == 1, f"the text is {shortened(text)}")
            self.expect_hidden({"the error": repr(error), "the log": "\n".join(entries)})
            return True
        except BaseException as error:
            changed = [key for key in self.table if table.get(key) != self.table[key]]
            values = {key: table.get(key, "(missing)") for key in changed}
            raise violation(MISTAKES, f"for {shortened(values)}, {error!r} was raised") from error
        return False

    def ask(self, credentials: Credentials) -> Identity | UnauthorizedError | None:
        """Return what it makes of these credentials, after checking what is always required."""
        try:
            found = self.authenticate(credentials)
        except UnauthorizedError as error:
            text = error.message
            expect(RAISES, len(text.splitlines()) == 1, f"the text is {shortened(text)}")
            token = credentials.token
            shown = f"{text} {error.details}"
            hidden = token is None or len(token) < _MIN_SECRET or token not in shown
            expect(HIDDEN, hidden, f"the error says: {shortened(shown)}")
            return error
        except BaseException as error:
            text = f"for {shortened(credentials)}, {error!r} was raised"
            raise violation(RAISES, text) from error
        if found is not None:
            _check_identity(found)
        return found

    def hostile(self) -> Iterator[Credentials]:
        """Return what a client might try; the same in each run."""
        yield from map(Credentials, TOKENS)
        chance = random.Random(7)
        yield from map(Credentials, random_texts(chance))
        for certificate in CERTIFICATES:
            yield Credentials(None, certificate)
            yield Credentials("token", certificate)
        for credentials in self.users.values():
            if (token := credentials.token) is not None:
                for change in changes(token, chance):
                    yield Credentials(change, credentials.certificate)
            for name in credentials.certificate:
                for change in changes(name, chance):
                    yield Credentials(None, (change,))

    def expect_hidden(self, texts: Mapping[str, str]) -> None:
        for where, text in texts.items():
            shown = any(secret in text for secret in self._secrets)
            expect(HIDDEN, not shown, f"{where} contains a secret")


def _check_identity(found: object) -> None:
    name, roles, expires_at = (getattr(found, key, 0) for key in ("name", "roles", "expires_at"))
    fine = (
        isinstance(found, Identity)
        and isinstance(name, str)
        and name != ""
        and name.isprintable()
        and (
            roles is None
            or (isinstance(roles, tuple) and all(isinstance(role, str) for role in roles))
        )
        and (
            expires_at is None
            or (type(expires_at) in (int, float) and time.time() < expires_at < math.inf)
        )
    )
    expect(TYPES, fine, f"it gave {shortened(found)}")


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


@contextmanager
def watched_log() -> Iterator[list[str]]:
    """Collect everything that is logged, with tracebacks."""
    entries: list[str] = []
    formatter = logging.Formatter()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            entries.append(formatter.format(record))

    root, handler = logging.getLogger(), Collect()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield entries
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


class _UnderTest:
    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    @hookimpl
    def mb_register_authenticators(self) -> list[Authenticator]:
        return [self._authenticator]

    @hookimpl
    def mb_register_transports(self) -> list[Any]:
        return mb_register_transports()
