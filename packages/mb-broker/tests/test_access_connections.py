"""What a connection itself says about a client: a certificate, or a header with a token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from mb_broker.access import Access, Grants, Limits, Role, User
from mb_broker.access.users import Authentication
from mb_core.authenticators import Credentials, Identity

from .conftest import Bench, Peer
from .users import access_of

ROLES = {"a": Grants([Role(publish=["a"], subscribe=["a"])]), "b": Grants([Role(publish=["b"])])}


def make(anonymous: Grants | None = None) -> Bench:
    users = [User("station", ROLES["a"]), User("other", ROLES["b"])]
    users.append(User("single", ROLES["a"], Limits(max_connections=1)))
    return Bench(access=access_of(users, anonymous))


def connect(bench: Bench, token: str | None = None, certificate: Iterable[str] = ()) -> Peer:
    return bench.join(Credentials(token, tuple(certificate)))


def name_of(peer: Peer) -> str | None:
    return peer.service.user.name if peer.service.user is not None else None


def test_a_client_is_who_its_certificate_says() -> None:
    bench = make()
    peer = connect(bench, certificate=["DNS:unknown", "CN=station"])
    assert name_of(peer) == "station"
    assert peer.ask("authenticate", {}) == {"status": "success", "user": "station"}
    peer.subscribe("a")
    bench.advance(60)
    assert bench.rejected == []


def test_a_client_is_who_its_header_says() -> None:
    peer = connect(make(), "mb_other", ["CN=station"])
    assert name_of(peer) == "other"
    assert peer.ask("authenticate", {"token": "mb_other"})["user"] == "other"


@pytest.mark.parametrize("certificate", [[], ["CN=station"]])
def test_a_wrong_token_in_a_header_is_logged(
    certificate: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make()
    peer = connect(bench, "mb_secret", certificate)
    assert name_of(peer) == ("station" if certificate else None)
    assert (
        "[UNAUTHORIZED] the token is invalid (in the Authorization header of a connection)"
        in caplog.text
    )
    assert "mb_secret" not in caplog.text
    assert bench.router.metrics.unauthorized.total == 1


@pytest.mark.parametrize("anonymous", [None, Grants()])
def test_a_certificate_of_no_user_is_nothing_special(
    anonymous: Grants | None, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(anonymous)
    peer = connect(bench, certificate=["CN=nobody"])
    assert name_of(peer) is None
    assert caplog.text == ""
    assert peer.ask("authenticate", {"token": "mb_station"})["user"] == "station"


@pytest.mark.parametrize("credentials", [{"certificate": ["CN=single"]}, {"token": "mb_single"}])
def test_too_many_connections_of_a_user_are_logged_and_unauthenticated(
    credentials: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make()
    first, second = (connect(bench, **credentials) for _ in range(2))
    assert (name_of(first), name_of(second)) == ("single", None)
    assert "the user 'single' already has 1 connection (max_connections)" in caplog.text
    error = second.ask("metrics", {})["error"]
    assert error["code"] == "UNAUTHORIZED"
    assert "single" not in error["message"]
    first.leave()
    assert name_of(connect(bench, **credentials)) == "single"


def test_without_an_access_file_they_mean_nothing() -> None:
    bench = Bench()
    peer = connect(bench, "mb_station", ["CN=station"])
    assert name_of(peer) is None
    peer.subscribe("a")


def test_another_user_or_other_roles_need_a_connection_without_subscriptions() -> None:
    """Otherwise, it would keep what only its previous roles allowed."""

    def authenticate(credentials: Credentials) -> Identity | None:
        name, _, roles = (credentials.token or "").partition(" ")
        return Identity(name, tuple(roles.split())) if name else None

    def grants_of(roles: Iterable[str]) -> Grants:
        return ROLES["".join(roles)]

    rules = [Authentication("test", authenticate)]
    bench = Bench(access=Access([], None, rules, grants_of))
    peer = bench.join()
    for token in ("ada a", "eve b", "ada b", "ada a", "ada a"):
        assert peer.ask("authenticate", {"token": token})["user"] == token.split()[0]
    peer.subscribe("a")
    for token, text in (("ada b", "gives 'ada' other roles"), ("eve a", "belongs to 'ada'")):
        error = peer.ask("authenticate", {"token": token})["error"]
        assert error["code"] == "INVALID_REQUEST"
        assert text in error["message"]
    assert peer.ask("authenticate", {"token": "ada a"})["user"] == "ada"
    assert name_of(peer) == "ada"
    assert list(bench.router._identities._connections.items()) == [(("test", "ada"), 1)]


@pytest.mark.parametrize("anonymous", [None, Grants([Role(subscribe=["a"])])])
def test_a_certificate_of_a_new_user_counts_at_once(anonymous: Grants | None) -> None:
    bench = Bench(access=access_of([], anonymous))
    peer = connect(bench, certificate=["CN=station"])
    assert name_of(peer) is None
    bench.router.replace_access(access_of([User("station", ROLES["a"])], anonymous), bench.now)
    assert name_of(peer) == "station"
    peer.subscribe("a")
    bench.advance(60)
    assert bench.rejected == []


def test_a_removed_user_is_disconnected_even_if_the_next_file_lets_it_stay() -> None:
    bench = make()
    peer = connect(bench, "mb_station").subscribe("a")
    for anonymous in (None, Grants([Role(subscribe=["a"])])):
        bench.router.replace_access(access_of([], anonymous), bench.now)
    assert not peer.service.subscriptions
    bench.advance(0)
    assert [each for each, _ in bench.rejected] == [peer]


def test_ids_do_not_show_how_many_messages_others_send() -> None:
    bench = make()
    stranger, station = bench.join(), connect(bench, "mb_station")

    def next_id() -> int:
        stranger.send("request:system.heartbeat:1.0.0\n{}")
        header = stranger.take_one().partition(b"\n")[0]
        return int(header.rpartition(b"-")[2], 16)

    station.subscribe("a")
    first = next_id()
    station.send(*["publish:a:1.0.0\n1"] * 100)
    assert next_id() == first + 1


def test_reading_the_file_again_does_not_save_a_user_that_has_guessed() -> None:
    bench = make()
    peer = connect(bench, certificate=["CN=station"])
    for _ in range(3):
        peer.ask("authenticate", {"token": "mb_wrong"})
    bench.router.replace_access(access_of([User("station", ROLES["a"])]), bench.now)
    bench.advance(0)
    assert bench.rejected == [(peer, "sent 3 wrong tokens")]
