"""The tables of `mb top`: how columns fit, and how rows are sorted and found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_tools.top.tables import ERRORS, SERVICES, TOPICS, Order, Table
from mb_tools.top.view import ErrorRow, ServiceRow, TopicRow

TABLES: list[Table[Any]] = [SERVICES, TOPICS, ERRORS]
TODAY = datetime(2026, 3, 1, tzinfo=UTC)


def service(name: str, **values: Any) -> ServiceRow:
    given: dict[str, Any] = {
        "id": f"id-of-{name}",
        "name": name,
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


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
@given(width=st.integers(0, 300))
def test_columns_never_need_more_than_there_is(table: Table[Any], width: int) -> None:
    widths = table.widths(width)
    shown = [each for each in widths if each]
    assert sum(shown) + max(0, len(shown) - 1) <= width
    # The first ones stay longest, and none gets less than it needs.
    assert widths == shown + [0] * (len(widths) - len(shown))
    assert all(given >= column.width for given, column in zip(shown, table.columns, strict=False))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
@pytest.mark.parametrize("width", [78, 118, 200])
def test_every_column_is_there_at_80_columns_and_the_line_is_filled(
    table: Table[Any], width: int
) -> None:
    widths = table.widths(width)
    assert all(widths)
    assert sum(widths) + len(widths) - 1 == width


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_titles_fit_their_columns_with_the_mark_of_the_order(table: Table[Any]) -> None:
    assert all(len(column.title) < column.width for column in table.columns)


def test_figures_are_sorted_the_highest_first_and_the_unknown_last() -> None:
    rows = [service("a"), service("b", rate=1.0), service("c", rate=3.0), service("d", rate=1.0)]
    assert names(SERVICES.sorted(rows, SERVICES.order)) == ["c", "b", "d", "a"]
    assert names(SERVICES.sorted(rows, Order(3, descending=False))) == ["b", "d", "c", "a"]


def test_texts_are_sorted_without_regard_to_case() -> None:
    rows = [service("b"), service("A"), service("C")]
    assert names(SERVICES.sorted(rows, Order(0, descending=False))) == ["A", "b", "C"]
    assert names(SERVICES.sorted(rows, Order(0, descending=True))) == ["C", "b", "A"]


def test_equal_rows_do_not_change_places_from_one_second_to_the_next() -> None:
    rows = [service(name, rate=1.0) for name in "dbca"]
    for _ in range(3):
        rows = SERVICES.sorted(reversed(rows), SERVICES.order)
        assert names(rows) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_sorting_goes_through_all_columns_and_begins_again(table: Table[Any]) -> None:
    order = table.order
    seen = []
    for _ in table.columns:
        order = table.next_order(order)
        seen.append(order.column)
        assert order.descending is table.columns[order.column].order_descending
    assert sorted(seen) == list(range(len(table.columns)))
    assert order == table.order


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
    tables: list[tuple[Table[Any], list[Any]]] = [
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


def test_cells_show_what_others_wrote_without_control_characters() -> None:
    evil = "\x1b]0;evil\x07\n"
    rows: list[tuple[Table[Any], Any]] = [
        (SERVICES, service(evil, id=evil, topics=(evil, evil))),
        (TOPICS, TopicRow(evil, evil, (), None, None, None, None, None)),
        (ERRORS, ErrorRow(1, TODAY, evil, evil, evil, evil)),
    ]
    for table, row in rows:
        for column in table.columns:
            assert column.text(row, TODAY).isprintable()


def test_details_tell_what_the_table_has_no_place_for() -> None:
    row = service("Maker", description="makes", topics=("a", "b"), since=TODAY)
    assert dict(SERVICES.details(row)) == {
        "service": "Maker",
        "description": "makes",
        "id": "id-of-Maker",
        "connected": "2026-03-01 00:00:00+00:00",
        "answers": "a\nb",
    }
    assert dict(SERVICES.details(service("")))["service"] == "(not registered)"
    assert dict(TOPICS.details(TopicRow("publish", "a", ("x", "y"), 1.0, 1, 1, 1, 0))) == {
        "topic": "a",
        "action": "publish",
        "subscribers": "x\ny",
    }
    assert dict(ERRORS.details(ErrorRow(1, TODAY, "a", "CODE", "", "who"))) == {
        "time": "2026-03-01 00:00:00.000+00:00",
        "topic": "a",
        "code": "CODE",
        "message": "-",
        "who": "who",
    }
