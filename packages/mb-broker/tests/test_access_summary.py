"""What an access file is summarized as: all that an operator wants to see, and no secret."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mb_broker.access import AccessSummary, UserSummary, summarize_access_file, token_digest
from mb_core import LocalProtocolError
from mb_core.authenticators import Authenticator

FILE = f"""
[roles.weather]
respond = ["weather.current"]
publish = ["Weather.#"]
[roles.operator]
system = ["metrics"]
[roles.nothing]

[[users]]
name = "oslo-station"
token_sha256 = "{token_digest("mb_one")}"
roles = ["weather"]
max_priority = 10.5
max_connections = 2
[[users]]
name = "ledger"
token_sha256 = "{token_digest("mb_three")}"
certificate = "URI:spiffe://example/ledger"
roles = ["operator"]
[[users]]
name = "billing"
token_sha256 = "{token_digest("mb_two")}"
roles = []

[anonymous]
roles = ["operator"]
"""


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(content)
    path.chmod(0o600)
    return path


def test_it_has_users_roles_and_anonymous_clients(tmp_path: Path) -> None:
    assert summarize_access_file(written(tmp_path, FILE)) == AccessSummary(
        users=[
            UserSummary(
                "oslo-station", ["token"], ["weather"], {"max_priority": 10.5, "max_connections": 2}
            ),
            UserSummary(
                "ledger", ["token", "certificate URI:spiffe://example/ledger"], ["operator"], {}
            ),
            UserSummary("billing", ["token"], [], {}),
        ],
        roles={
            "weather": {"respond": ["weather.current"], "publish": ["Weather.#"]},
            "operator": {"system": ["metrics"]},
            "nothing": {},
        },
        anonymous=["operator"],
        authenticators={},
    )


def test_it_has_no_hash_in_any_form(tmp_path: Path) -> None:
    content = FILE.replace(token_digest("mb_two"), token_digest("mb_two").upper())
    summary = summarize_access_file(written(tmp_path, content))
    shown = (repr(summary) + msgspec.json.encode(summary).decode()).lower()
    for token in ("mb_one", "mb_two"):
        assert token not in shown
        assert token_digest(token)[:8] not in shown


def test_authenticators_have_limits_but_their_settings_are_not_shown(tmp_path: Path) -> None:
    table = """
[authenticators.other]
secret = "mb_secret"
max_age = "mb_secret"
max_connections = 3
[[users]]
name = "known-elsewhere"
roles = []
"""
    other = Authenticator("other", lambda table, folder: lambda credentials: None)
    summary = summarize_access_file(written(tmp_path, FILE + table), lambda name: other)
    assert summary.authenticators == {"other": {"max_connections": 3}}
    assert summary.users[-1] == UserSummary("known-elsewhere", [], [], {})
    assert "mb_secret" not in repr(summary)


def test_without_anonymous_there_is_none(tmp_path: Path) -> None:
    content = FILE.partition("[anonymous]")[0]
    assert summarize_access_file(written(tmp_path, content)).anonymous is None


def test_an_invalid_file_is_the_error_of_the_broker(tmp_path: Path) -> None:
    path = written(tmp_path, FILE.replace('["weather"]', '["wether"]'))
    text = f"access file {path}: [[users]] 'oslo-station': unknown role 'wether'; did you mean"
    with pytest.raises(LocalProtocolError) as caught:
        summarize_access_file(path)
    assert str(caught.value).startswith(text)
