"""Regular expressions of untrusted clients: in linear time, or refused with a reason."""

from __future__ import annotations

import contextlib
import logging
import sys
import time

import pytest

from mb_broker.log_filter import compile_search


@pytest.mark.usefixtures("needs_re2")
@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        ("", "anything", True),
        ("", "", True),
        ("timed out", "weather.get timed out", True),
        ("^timed", "weather.get timed out", False),
        (r"\btimed\b.*$", "weather.get timed out", True),
        ("TIMED", "timed", False),
        ("(?i)TIMED", "timed", True),
        ("a|b", "b", True),
        ("[0-9]{3,}", "port 8080", True),
        ("sch(ö|oe)n", "wie schön", True),
        (".", "\N{SNOWMAN}", True),
        ("^.$", "\N{SNOWMAN}", True),
        ("a.b", "a\nb", False),
        ("(?s)a.b", "a\nb", True),
        ("\x00", "a\x00b", True),
    ],
)
def test_a_search_finds_a_match_anywhere(expression: str, text: str, found: bool) -> None:
    assert compile_search(expression)(text) is found


@pytest.mark.usefixtures("needs_re2")
@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        pytest.param("(", "missing )", id="open group"),
        pytest.param("[", "missing ]", id="open class"),
        pytest.param("*", "no argument for repetition", id="nothing to repeat"),
        pytest.param("a(?=b)", "invalid perl operator: (?=", id="look-ahead"),
        pytest.param("(?<!a)b", "invalid", id="look-behind"),
        pytest.param(r"(a)\1", r"invalid escape sequence: \1", id="back-reference"),
        pytest.param("a{1000}{1000}", "bad repetition", id="repetition of repetitions"),
        pytest.param("((a{100}){100}){100}", "repetition", id="nested repetition"),
        pytest.param("a" * 1025, "it has 1025 characters, the limit is 1024", id="long"),
        pytest.param("\ud800", "surrogates", id="a lone surrogate"),
        pytest.param(5, "it must be a string", id="a number"),
        pytest.param(["a"], "it must be a string", id="a list"),
        pytest.param({}, "it must be a string", id="an object"),
        pytest.param(True, "it must be a string", id="a switch"),
    ],
)
def test_what_can_not_be_used_is_refused_with_the_reason(
    expression: object, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        compile_search(expression)
    assert reason in str(refused.value)
    assert capfd.readouterr() == ("", "")  # RE2 would write of it itself


@pytest.mark.usefixtures("needs_re2")
@pytest.mark.parametrize(
    "expression",
    ["(" * 500 + "a" + ")" * 500, "|".join(["(.{30}){30}"] * 80), r"\pL{999}" * 80, "[^a]" * 256],
    ids=["nested", "repetitions", "classes", "many"],
)
def test_an_expression_that_takes_much_memory_is_refused_or_quick(
    expression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.process_time()
    with contextlib.suppress(ValueError):
        compile_search(expression)("a" * 1000)
    assert time.process_time() - started < 2
    assert capfd.readouterr() == ("", "")  # RE2 would write of it itself


@pytest.mark.usefixtures("needs_re2")
def test_an_expression_of_the_longest_length_is_taken() -> None:
    assert compile_search("a" * 1024)("a" * 1024)


@pytest.mark.usefixtures("needs_re2")
@pytest.mark.parametrize(
    "expression", ["(a+)+$", "(a|aa)+$", "(a*)*b", "(.*)(.*)(.*)(.*)(.*)x$", "(a?){50}a{50}$"]
)
def test_a_pathological_expression_is_as_quick_as_any(expression: str) -> None:
    search = compile_search(expression)
    # Python's own would need longer than the universe is old.
    text = "a" * 20_000 + "!"
    started = time.process_time()
    assert not search(text)
    assert time.process_time() - started < 2


def test_without_its_library_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(ValueError, match="google-re2 is not installed") as error,
    ):
        compile_search("a")
    assert "pip install google-re2" in str(error.value)
    assert compile_search("")("anything")  # which every text has
    assert caplog.records == []
