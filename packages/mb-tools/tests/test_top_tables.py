"""The tables of `mb top`: how columns fit, and how rows are sorted and found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mb_tools.text import one_line
from mb_tools.top.model import ServiceRow, TopicRow
from mb_tools.top.tables import ERRORS, SERVICES, SERVICES_WITH_USERS, TOPICS, Order, Table, cell
from mb_tools.top.traffic import ErrorRow

TABLES: list[Table] = [SERVICES, TOPICS, ERRORS]
ALL_TABLES = [*TABLES, SERVICES_WITH_USERS]
TODAY = datetime(2026, 3, 1, tzinfo=UTC)


def service(name: str, **values: Any) -> ServiceRow:
    given: dict[str, Any] = {
        "id": f"id-of-{name}",
        "name": name,
        "user": "",
        "description": "",
        "topics": (),
        "rate": None,
        "p50": None,
        "p99": None,
        "errors": None,
        "since": None,
    }
    return ServiceRow(**(given | values))


def names(rows: list[ServiceRow]) -> list[str]:
    return [row.name for row in rows]


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.title)
@given(width=st.integers(0, 300))
def test_columns_fill_the_line_and_none_gets_less_than_it_needs(table: Table, width: int) -> None:
    widths = table.widths(width)
    least = sum(column.width + 1 for column in table.columns) - 1
    assert sum(widths) + len(widths) - 1 == max(width, least)
    assert all(given >= column.width for given, column in zip(widths, table.columns, strict=True))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
@pytest.mark.parametrize("width", [78, 118, 200])
def test_every_column_has_a_place_at_80_columns(table: Table, width: int) -> None:
    widths = table.widths(width)
    assert sum(widths) + len(widths) - 1 == width


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.title)
def test_titles_fit_their_columns_with_the_mark_of_the_order(table: Table) -> None:
    assert all(len(column.title) < column.width for column in table.columns)


def test_figures_are_sorted_the_highest_first_and_the_unknown_last() -> None:
    rows = [service("a"), service("b", rate=1.0), service("c", rate=3.0), service("d", rate=1.0)]
    assert names(SERVICES.sorted(rows, SERVICES.order)) == ["c", "b", "d", "a"]
    assert names(SERVICES.sorted(rows, Order(3, descending=False))) == ["b", "d", "c", "a"]


def test_users_are_a_column_of_their_own() -> None:
    rows = [service("a", user="zoe"), service("b"), service("c", user="Adam", rate=1.0)]
    assert names(SERVICES_WITH_USERS.sorted(rows, Order(1, descending=False))) == ["c", "a", "b"]
    assert names(SERVICES_WITH_USERS.filtered(rows, "ADA")) == ["c"]
    assert names(SERVICES_WITH_USERS.sorted(rows, SERVICES_WITH_USERS.order))[0] == "c"
    assert details(SERVICES_WITH_USERS, rows[0])[:2] == ["service      a", "user         zoe"]


def test_texts_are_sorted_without_regard_to_case() -> None:
    rows = [service("b"), service("A"), service("C")]
    assert names(SERVICES.sorted(rows, Order(0, descending=False))) == ["A", "b", "C"]
    assert names(SERVICES.sorted(rows, Order(0, descending=True))) == ["C", "b", "A"]


def test_equal_rows_do_not_change_places_from_one_second_to_the_next() -> None:
    rows = [service(name, rate=1.0) for name in "dbca"]
    for _ in range(3):
        rows = SERVICES.sorted(reversed(rows), SERVICES.order)
        assert names(rows) == ["a", "b", "c", "d"]


def test_each_column_can_be_sorted_by() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        service("a", rate=1.0, p50=1, p99=2, errors=3, since=now, topics=("x",)),
        service("b"),
    ]
    topics = [
        TopicRow("publish", "a", ("x",), 1.0, None, None, 0, 2),
        TopicRow("request", "b", (), None, 1, 2, None, None),
    ]
    errors = [
        ErrorRow(1, now, "a", "CODE", "message", "who"),
        ErrorRow(2, now, "b", "CODE", "message", "who"),
    ]
    tables: list[tuple[Table, list[Any]]] = [
        (SERVICES, rows),
        (TOPICS, topics),
        (ERRORS, errors),
    ]
    for table, some in tables:
        for index in range(len(table.columns)):
            ordered = table.sorted(some, Order(index, descending=True))
            assert {row.id for row in ordered} == {row.id for row in some}


def test_errors_begin_with_the_latest() -> None:
    rows = [ErrorRow(number, TODAY, "a", "CODE", "", "who") for number in (9, 11, 10)]
    assert [row.number for row in ERRORS.sorted(rows, ERRORS.order)] == [11, 10, 9]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("", ["Maker", "other"]), ("MAK", ["Maker"]), ("id-of-o", ["other"]), ("a.b", ["other"])],
)
def test_a_filter_finds_rows_by_any_of_their_texts(wanted: str, expected: list[str]) -> None:
    rows = [service("Maker"), service("other", topics=("x", "A.B"))]
    assert names(SERVICES.filtered(rows, wanted)) == expected


@given(st.text(), st.integers(0, 40), st.booleans())
def test_a_cell_has_exactly_its_width_whatever_is_in_it(text: str, width: int, right: bool) -> None:
    assert cell_len(cell(one_line(text), width, right=right)) == width


@pytest.mark.parametrize(
    ("text", "width", "right", "expected"),
    [
        ("abc", 5, False, "abc  "),
        ("abc", 5, True, "  abc"),
        ("abcdef", 5, False, "abcd…"),
        ("漢字漢字", 5, False, "漢字…"),
        ("abc", 1, False, "…"),
        ("abc", 0, False, ""),
    ],
)
def test_a_cell_is_filled_or_cut_with_an_ellipsis(
    text: str, width: int, right: bool, expected: str
) -> None:
    assert cell(text, width, right=right) == expected


def details(table: Table, row: Any) -> list[str]:
    return table.details_of(row).splitlines()


def test_details_tell_what_the_table_has_no_place_for() -> None:
    row = service("Maker", description="makes", topics=("a", "b"), since=TODAY)
    assert details(SERVICES, row) == [
        "service      Maker",
        "description  makes",
        "id           id-of-Maker",
        "connected    2026-03-01 00:00:00.000+00:00",
        "answers      a",
        "             b",
    ]
    assert details(SERVICES, service(""))[0] == "service      -"
    assert details(TOPICS, TopicRow("publish", "a", ("x", "y"), 1.0, 1, 1, 1, 0)) == [
        "topic        a",
        "action       publish",
        "subscribers  x",
        "             y",
    ]
    assert details(ERRORS, ErrorRow(1, TODAY, "a", "CODE", "\x1b[m", "who")) == [
        "time     2026-03-01 00:00:00.000+00:00",
        "topic    a",
        "code     CODE",
        r"message  \x1b[m",
        "who      who",
    ]
