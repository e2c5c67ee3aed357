"""Request ids: their form, that they do not meet, and what is said of a wrong one."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import LocalProtocolError
from mb_core.ids import IdSource, check_id, is_id

ID = "5d0c3b0e-7f5c-4b4e-9a53-2f0d7c9e4a11"

NO_IDS = {
    "empty": "",
    "upper case": ID.upper(),
    "one upper-case digit": ID.replace("d", "D", 1),
    "no hyphens": ID.replace("-", ""),
    "braces": f"{{{ID}}}",
    "too short": ID[:-1],
    "too long": f"{ID}0",
    "space before": f" {ID[1:]}",
    "newline after": f"{ID}\n",
    "no hexadecimal digit": f"g{ID[1:]}",
    "hyphen out of place": f"{ID[1:9]}{ID[0]}{ID[9:]}",
    "digits of another script": ID.replace("5", "\u0665"),
    "lone surrogate": f"\ud800{ID[1:]}",
    "one replaced character": f"?{ID[1:]}",
    "long": "a" * 100_000,
}


def test_an_id_comes_back_as_bytes() -> None:
    assert check_id(ID, "request id") == ID.encode()


@given(st.uuids())
def test_every_uuid_is_an_id(value: uuid.UUID) -> None:
    assert check_id(str(value), "request id") == str(value).encode()
    assert is_id(str(value).encode())


@pytest.mark.parametrize("value", NO_IDS.values(), ids=NO_IDS)
def test_what_is_no_id_is_refused(value: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"invalid parent id .*lower-case hexadecimal"):
        check_id(value, "parent id")
    assert not is_id(value.encode(errors="surrogatepass"))


@pytest.mark.parametrize("value", [None, 5, ID.encode(), uuid.UUID(ID), [ID]], ids=repr)
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="invalid request id"):
        check_id(value, "request id")


def test_a_source_makes_ids_and_none_twice() -> None:
    source = IdSource()
    made = [source.next() for _ in range(10_000)]
    assert len(set(made)) == len(made)
    assert all(is_id(each) for each in made)


def test_made_ids_are_random_uuids_to_who_looks_at_their_version() -> None:
    for _ in range(20):
        made = uuid.UUID(IdSource().next().decode())
        assert made.version == 4
        assert made.variant == uuid.RFC_4122


def test_two_sources_do_not_meet() -> None:
    sources = [IdSource() for _ in range(200)]
    made = [source.next() for source in sources for _ in range(20)]
    assert len(set(made)) == len(made)


def test_a_source_knows_its_own_ids() -> None:
    mine, other = IdSource(), IdSource()
    assert mine.made(mine.next())
    assert not mine.made(other.next())
