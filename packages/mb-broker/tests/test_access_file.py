"""The access file: what it says, and what every mistake in it is answered with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mb_broker import Broker
from mb_broker.access import Access, Limits, User, new_token, read_access_file, token_digest
from mb_core import LocalProtocolError, UnauthorizedError
from mb_core.authenticators import Credentials
from mb_core.header import Action

HASH = token_digest("mb_one")
OTHER = token_digest("mb_two")
GOOD = f"""
[roles.weather]
respond = ["weather.current"]
publish = ["Weather.#"]
[roles.reader]
subscribe = ["weather.#"]
request = ["weather.#"]
system = ["metrics"]

[[users]]
name = "oslo-station"
token_sha256 = "{HASH.upper()}"
roles = ["weather"]
max_priority = 10
max_connections = 2

[[users]]
name = "billing"
token_sha256 = "{OTHER}"
roles = ["weather", "reader"]

[anonymous]
roles = ["reader"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(GOOD)
    path.chmod(0o640)
    return path


def user_of(access: Access, token: str) -> User | None:
    try:
        user, expires_at = access.user_of(Credentials(token))
    except UnauthorizedError:
        return None
    assert expires_at is None
    return user


def test_users_have_what_their_roles_allow(file: Path) -> None:
    access = read_access_file(file)
    user = user_of(access, "mb_one")
    assert user is not None
    assert (user.name, user.limits) == ("oslo-station", Limits(10, 2))
    assert user.grants.may_send(Action.PUBLISH, "weather.oslo.now")
    assert user.grants.may_subscribe(Action.REQUEST, "weather.current")
    assert not user.grants.may_subscribe(Action.REQUEST, "weather.other")
    assert user_of(access, "mb_three") is None
    assert user_of(access, "") is None
    assert user_of(access, "\ud800") is None


def test_users_may_do_what_anonymous_clients_may(file: Path) -> None:
    user = user_of(read_access_file(file), "mb_one")
    assert user is not None
    assert user.grants.may_subscribe(Action.PUBLISH, "weather.oslo")


def test_clients_with_the_same_roles_share_their_grants(file: Path) -> None:
    access = read_access_file(file)
    one, other = user_of(access, "mb_one"), user_of(access, "mb_two")
    assert one is not None
    assert other is not None
    assert one.grants is other.grants  # both have the role weather, and the anonymous one


def test_without_anonymous_clients_have_to_authenticate(file: Path) -> None:
    file.write_text(GOOD.partition("[anonymous]")[0])
    initial = read_access_file(file).initial
    assert not initial.known
    assert not initial.may_subscribe(Action.PUBLISH, "weather.oslo")


def test_new_tokens_differ_and_have_a_prefix() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith("mb_") and len(token) == 46 for token in tokens)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("[roles.weather]", "[role.weather]", r"unknown table \[role\]; did you mean 'roles'\?"),
        (
            "[roles.weather]",
            "[roles.wether]",
            (
                r"\[\[users\]\] 'oslo-station': unknown role "
                r"'weather'; did you mean 'wether'\?"
            ),
        ),
        (
            "publish = [",
            "publishes = [",
            (
                r"\[roles.weather\]: unknown key 'publishes'; did you "
                r"mean 'publish'\?"
            ),
        ),
        (
            '"Weather.#"',
            '"weather.#.x"',
            (
                r"\[roles.weather\]: invalid pattern 'weather.#.x' in "
                r"publish: 1 to 5 segments"
            ),
        ),
        (
            '"Weather.#"',
            '"system.message"',
            (
                r"\[roles.weather\]: 'system.message' in publish "
                r"belongs to the broker: use system = "
            ),
        ),
        (
            '["Weather.#"]',
            '"Weather.#"',
            (
                r"\[roles.weather\]: publish: expected `array`, got "
                r"`str`"
            ),
        ),
        (
            '["metrics"]',
            '["metric"]',
            (
                r"\[roles.reader\]: system\[0\]: invalid enum value "
                r"'metric'"
            ),
        ),
        (
            HASH.upper(),
            HASH[:-1],
            (
                r"\[\[users\]\] 'oslo-station': token_sha256 .*: expected 64 "
                r"hexadecimal digits, as `mb token` prints them"
            ),
        ),
        (
            OTHER,
            HASH,
            (
                r"\[\[users\]\] 'billing': has the same token as 'oslo-station'; create one "
                r"with `mb token` for each user"
            ),
        ),
        (
            '"billing"',
            '"oslo-station"',
            (
                r"\[\[users\]\] 'oslo-station': there are two users of "
                r"this name; rename one of them"
            ),
        ),
        ('name = "billing"\n', "", r"\[\[users\]\] number 2: the key 'name' is missing"),
        (
            'name = "billing"',
            "name = 5",
            (
                r"\[\[users\]\] number 2: name: expected `str`, got "
                r"`int`"
            ),
        ),
        ('"billing"', '"\\u001b[2J"', r"invalid name '\\x1b\[2J': expected printable characters"),
        (
            "max_priority = 10",
            "max_priority = nan",  # no priority is above it
            r"'oslo-station': invalid max_priority nan: must be a number; leave it out for no l",
        ),
        (
            "max_connections = 2",
            "max_connections = 0",
            (
                r"'oslo-station': invalid "
                r"max_connections 0: must be 1 or more"
            ),
        ),
        (
            '[anonymous]\nroles = ["reader"]',
            '[anonymous]\nroles = ["all"]',
            (
                r"\[anonymous\]: "
                r"unknown role 'all'; expected one of: weather, reader"
            ),
        ),
        ("[anonymous]", "[[anonymous]]", r"\[anonymous\]: expected `object`, got `array`"),
        (GOOD, "", r"has no \[\[users\]\] and no \[anonymous\], so nobody could do anything"),
        (GOOD, "users = 5", r"users must be an array of tables: write \[\[users\]\]"),
        (GOOD, "roles = 5", r"roles must be tables, such as \[roles.reader\]"),
        (GOOD, "[roles", r"is not valid TOML: Expected"),
        (GOOD, "x = " + "[" * 5_000, r"is nested too deep"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_stanza_and_the_remedy(
    old: str, new: str, text: str, file: Path
) -> None:
    assert GOOD.count(old) >= 1
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(LocalProtocolError, match=text) as caught:
        read_access_file(file)
    shown = str(caught.value)
    assert shown.startswith(f"access file {file}: ")
    assert "\n" not in shown
    assert HASH not in shown.lower()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_a_file_that_others_can_write_is_refused(mode: int, file: Path) -> None:
    file.chmod(mode)
    with pytest.raises(LocalProtocolError, match=f"others? .*can write it: chmod go-w {file}"):
        read_access_file(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="can't be read: No such file"):
        read_access_file(tmp_path / "none.toml")


def test_a_file_that_is_not_utf8_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff")
    with pytest.raises(LocalProtocolError, match="is not valid TOML"):
        read_access_file(file)


@pytest.mark.parametrize("given", [str, Path])
def test_a_broker_reads_it_when_it_is_created(given: type, file: Path) -> None:
    assert Broker(access=given(file)).options.access == os.fspath(file)
    file.write_text("")
    with pytest.raises(LocalProtocolError, match="access file"):
        Broker(access=given(file))


@pytest.mark.parametrize("given", ["", 5])
def test_anything_else_is_no_path(given: object) -> None:
    with pytest.raises(LocalProtocolError, match=r"invalid access .*: must be the name of a file"):
        Broker(access=given)  # type: ignore[arg-type]  # what is refused here
