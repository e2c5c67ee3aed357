"""Users and their tokens: `mb token`, `mb whoami`, --token-file and MB_TOKEN."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mb_broker import RunningBroker, running
from mb_broker.access import read_access_file, token_digest
from mb_core.authenticators import Credentials
from mb_sync import MessageBrokerClient

ROLES = '[roles.all]\npublish = ["#"]\nsubscribe = ["#"]\nsystem = ["services"]\n'


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with the token of the user `station`."""
    path = tmp_path / "station.token"
    path.write_text("mb_station\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    path = tmp_path / "access.toml"
    digest = token_digest("mb_station")
    user = f'[[users]]\nname = "station"\ntoken_sha256 = "{digest}"\nroles = ["all"]\n'
    path.write_text(ROLES + user)
    path.chmod(0o600)
    with running("tcp://127.0.0.1:0", access=path) as broker:
        yield broker


@pytest.fixture
def url(broker: RunningBroker) -> str:
    return broker.url


def test_a_token_file_says_who_you_are(mb: Any, token: Path) -> None:
    done = mb("whoami", "--token-file", str(token))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"user": "station"}


def test_services_say_which_user_each_client_is(mb: Any, token: Path) -> None:
    done = mb("services", "--token-file", str(token))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["user"] == "station"
    status, shown = mb.on_terminal("services", "--token-file", str(token), COLUMNS="160")
    assert status == 0
    assert re.search(r"name +┃ user +┃ connected ", re.sub(r"\x1b\[\d*m", "", shown))
    assert re.search(r"mb services │ station │ 0s ", shown)


def test_a_client_without_a_user_is_shown_with_a_dash(
    mb: Any, broker: RunningBroker, token: Path
) -> None:
    with MessageBrokerClient(broker.url) as stranger:
        assert stranger.user is None
        status, shown = mb.on_terminal("services", "--token-file", str(token), COLUMNS="160")
    assert status == 0
    assert re.search(r"- +│ - +│ \ds ", shown)


def test_topics_are_listed_with_ids_if_the_user_may_not_see_names(
    mb: Any, broker: RunningBroker, token: Path, tmp_path: Path
) -> None:
    path = tmp_path / "access.toml"
    path.write_text(path.read_text().replace('["services"]', '["topics"]'))
    broker.reload_access()
    with MessageBrokerClient(broker.url, token="mb_station") as client:
        client.register_service("Oslo", "has a name")
        client.subscribe("weather.#")
        status, shown = mb.on_terminal("topics", "--token-file", str(token))
    assert status == 0
    assert re.search(r"weather.# +│ publish +│ [0-9a-f]{8}", re.sub(r"\x1b\[\d*m", "", shown))


def test_so_does_the_environment_unless_there_is_a_file(
    mb: Any, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MB_TOKEN", "mb_station")
    assert json.loads(mb("whoami").stdout) == {"user": "station"}
    monkeypatch.setenv("MB_TOKEN", "mb_wrong")
    assert json.loads(mb("whoami", "--token-file", str(token)).stdout) == {"user": "station"}
    done = mb("whoami")
    assert done.returncode == 3
    assert done.stderr.endswith(
        " refused authentication: UNAUTHORIZED: the token is invalid; give the token of one of the "
        "broker's users with --token-file FILE or MB_TOKEN\n"
    )
    assert "mb_wrong" not in done.stderr


def test_without_a_token_nothing_is_allowed(mb: Any) -> None:
    assert json.loads(mb("whoami").stdout) == {"user": None}
    status, shown = mb.on_terminal("whoami", COLUMNS="200")
    assert status == 0
    assert shown.strip() == (
        "anonymous: neither a token (--token-file FILE or MB_TOKEN) nor a client certificate of a "
        "user (--cert FILE) was given"
    )
    done = mb("pub", "a.b", "1", "--confirm")
    assert done.returncode == 1
    assert "UNAUTHORIZED: authenticate first: this broker needs a token" in done.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file or directory"),
        (b"\n", "it is empty"),
        (b"mb_one\nmb_two\n", "it contains more than a token"),
        (b"\xff", "it is not a text file"),
    ],
)
def test_a_file_without_a_token_is_named(
    content: bytes | None, text: str, mb: Any, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    done = mb("ping", "-n", "1", "--token-file", str(path))
    assert done.returncode == 2
    assert done.stderr == f"mb ping: --token-file {path}: {text}\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" ", "it is empty"),
        ("mb_one\nmb_two", "it contains more than a token"),
        ("mb_\x1b[31m", "it contains more than a token"),
    ],
)
def test_a_variable_without_a_token_is_named(value: str, text: str, mb: Any) -> None:
    done = mb("whoami", MB_TOKEN=value)
    assert done.returncode == 2
    assert done.stderr == f"mb whoami: MB_TOKEN: {text}\n"


def test_space_around_the_token_in_a_variable_does_not_count(mb: Any) -> None:
    assert json.loads(mb("whoami", MB_TOKEN="mb_station\n").stdout) == {"user": "station"}
    assert json.loads(mb("whoami", MB_TOKEN="").stdout) == {"user": None}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_a_file_that_others_can_read_is_pointed_out(mb: Any, token: Path) -> None:
    token.chmod(0o644)
    done = mb("whoami", "--token-file", str(token))
    assert done.returncode == 0
    assert done.stderr == (
        f"mb whoami: other users of this machine can read {token}: chmod 600 {token}\n"
    )


def test_a_token_is_no_option_because_others_would_see_it(mb: Any) -> None:
    done = mb("whoami", "--token", "mb_station")
    assert done.returncode == 2
    assert "No such option '--token'" in done.stderr


@pytest.mark.parametrize("name", ["oslo-station", 'Zo\u00eb "7" \\ x'])
def test_a_new_token_works_with_the_stanza_that_is_printed(
    name: str, mb: Any, tmp_path: Path
) -> None:
    done = mb("token", name)
    assert done.returncode == 0
    shown = done.stderr.split()[-1]
    assert shown not in done.stdout
    path = tmp_path / "new.toml"
    path.write_text(done.stdout, encoding="utf-8")
    path.chmod(0o600)
    user, _ = read_access_file(path).user_of(Credentials(shown))
    assert user.name == name


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_a_name_has_to_be_printable(name: str, mb: Any) -> None:
    done = mb("token", name)
    assert done.returncode == 2
    assert done.stderr == f"mb token: invalid name {name!r}: expected printable characters\n"


def test_a_broker_with_an_invalid_access_file_does_not_start(mb: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[anonymous]\nroles = ["al"]\n')
    path.chmod(0o600)
    done = mb("serve", "--access", str(path), "--tcp-port", "0", "--ws-port", "off")
    assert done.returncode == 2
    assert done.stderr == (
        f"mb serve: access file {path}: [anonymous]: unknown role 'al'; there are no roles\n"
    )
