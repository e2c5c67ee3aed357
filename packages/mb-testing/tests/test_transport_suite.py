"""The suite for transports finds what is wrong with one: no check of it is empty."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mb_testing import TransportSuite
from mb_testing.transport_suite import requirements
from mb_testing.transport_suite.requirements import Requirement

HERE = Path(__file__).parent

WIRES = [
    ("NeedsItsPrefixInOnePiece", "one_byte_at_a_time_gives_the_same_messages", "SPLITS"),
    ("NeedsItsPrefixInOnePiece", "random_splits_give_the_same_messages", "SPLITS"),
    ("LosesASecondPiece", "every_split_in_two_and_in_three_gives_the_same_messages", "SPLITS"),
    ("LosesEmptyMessages", "messages_of_every_size_arrive_whole", "SPLITS"),
    ("HasLengthsOfTwoBytes", "messages_of_every_size_arrive_whole", "SPLITS"),
    ("HasLengthsOfTwoBytes", "every_byte_of_a_message_is_kept", "MESSAGES"),
    ("GivesMessagesLate", "a_message_comes_with_its_last_byte", "PROMPT"),
    ("MiscountsItsFrames", "send_says_how_many_bytes_it_adds", "COUNTS"),
    ("GivesOutputBitByBit", "output_is_given_at_once_and_once", "OUTPUT_ONCE"),
    ("RepeatsItsOutput", "output_is_given_at_once_and_once", "OUTPUT_ONCE"),
    ("SharesItsInput", "two_connections_at_a_time_share_nothing", "OWN_STATE"),
    (
        "CopiesAllWithEachPiece",
        "a_large_message_in_small_pieces_takes_work_in_proportion",
        "PROPORTION",
    ),
    (
        "CopiesTheRestWithEachMessage",
        "many_messages_in_one_read_take_work_in_proportion",
        "PROPORTION",
    ),
    ("GivesViewsOfItsInput", "messages_of_every_size_arrive_whole", "TYPES"),
    ("NeverOpens", "both_sides_are_open_after_the_handshake", "HANDSHAKE"),
    ("NeedsItsHelloInOnePiece", "the_handshake_works_one_byte_at_a_time", "HANDSHAKE"),
    ("LosesWhatFollowsTheHello", "messages_right_behind_the_handshake_are_given", "SPLITS"),
    (
        "MindsNoEndWithinTheHello",
        "an_end_of_the_stream_within_the_handshake_is_an_error",
        "EOF_WITHIN",
    ),
    ("AnswersEverything", "both_sides_are_open_after_the_handshake", "QUIET"),
    ("IgnoresTheLimit", "a_message_at_the_limit_is_accepted_and_one_above_is_not", "LIMIT"),
    (
        "IgnoresTheLimit",
        "a_message_over_the_limit_ends_the_link_behind_those_before_it",
        "LIMIT",
    ),
    ("RefusesTheLimit", "a_message_at_the_limit_is_accepted_and_one_above_is_not", "LIMIT"),
    (
        "MakesRoomForWhatIsAnnounced",
        "a_message_far_above_the_limit_gets_no_memory",
        "NO_ROOM_OVER_LIMIT",
    ),
    ("RefusesTooLate", "a_message_far_above_the_limit_gets_no_memory", "NO_ROOM_OVER_LIMIT"),
    ("LosesTheTail", "an_end_of_the_stream_within_a_message_is_an_error", "EOF_WITHIN"),
    ("LosesTheTail", "an_end_within_a_message_is_an_error", "LOST"),
    ("StaysOpenAtTheEnd", "an_end_of_the_stream_between_messages_closes", "EOF_BETWEEN"),
    ("BlamesAnOrderlyEnd", "a_wire_closes_behind_all_that_was_sent_and_in_order", "CLOSES"),
    ("HangsAtClose", "a_wire_closes_behind_all_that_was_sent_and_in_order", "CLOSES"),
    ("HangsAtClose", "both_wires_may_close_at_once", "CLOSES"),
    ("HangsAtClose", "a_close_that_is_never_answered_ends_with_the_stream", "CLOSES"),
    (
        "ForgetsItsOutputAtClose",
        "a_wire_closes_behind_all_that_was_sent_and_in_order",
        "CLOSES",
    ),
    (
        "ForgetsItsOutputAtClose",
        "close_is_behind_all_that_was_sent_and_in_order",
        "ORDERLY",
    ),
    ("CanNotSayWhy", "a_wire_closes_behind_all_that_was_sent_and_in_order", "NEVER_RAISES"),
    (
        "IsOpenAgainAfterItsEnd",
        "the_end_of_the_stream_may_come_twice_and_nothing_comes_behind_it",
        "DOWNWARDS",
    ),
    (
        "ChangesItsMind",
        "the_end_of_the_stream_may_come_twice_and_nothing_comes_behind_it",
        "ONE_REASON",
    ),
    ("CanNotCloseWithinTheHello", "closing_within_the_handshake_ends_it", "CLOSES"),
    ("RaisesForOtherProtocols", "another_protocol_harms_nobody", "NEVER_RAISES"),
    ("RaisesForOtherProtocols", "random_bytes_harm_nobody", "NEVER_RAISES"),
    ("RaisesForOtherProtocols", "untrusted_clients_end_no_other_connection", "NO_BUG"),
    ("RaisesForBitsThatAreWrong", "a_damaged_stream_harms_nobody", "NEVER_RAISES"),
    ("LoopsForever", "another_protocol_harms_nobody", "PROPORTION"),
]
LINKS = [
    ("Reverses", "messages_go_both_ways_in_order", "MESSAGES"),
    ("ForgetsItsMessages", "messages_go_both_ways_in_order", None),
    ("StripsMessages", "every_byte_of_a_message_is_kept", "MESSAGES"),
    ("LosesFirstMessages", "what_accept_sends_comes_before_all_else", None),
    ("IsNobody", "a_link_knows_its_peer", "PEER"),
    ("MixesUpConnections", "many_connections_at_a_time_are_kept_apart", None),
    ("DeliversOneByOne", "what_is_sent_in_one_turn_leaves_in_one_write", "COALESCED"),
    ("CountsWhatItQueued", "messages_are_counted_when_they_are_handed_over", "COUNTED"),
    ("NeverMoves", "what_arrives_is_progress", "PROGRESS"),
    ("IsNeverCongested", "a_link_with_much_to_send_is_congested_until_it_is_taken", "HELD"),
    ("DrainsForNothing", "a_link_with_much_to_send_is_congested_until_it_is_taken", "HELD"),
    ("IsLostTwice", "a_link_knows_its_peer", "HANDLED_IN_ORDER"),
    ("CallsWithoutMessages", "messages_go_both_ways_in_order", "HANDLED_IN_ORDER"),
    ("RaisesAtItsEnd", "a_link_knows_its_peer", "NO_BUG"),
    ("BlamesAnOrderlyEnd", "close_is_behind_all_that_was_sent_and_in_order", "ORDERLY"),
    ("BlamesAnOrderlyEnd", "both_sides_may_close_at_once", "ORDERLY"),
    ("BlamesAnOrderlyEnd", "a_link_may_be_ended_from_within_its_handler", "ORDERLY"),
    ("AbortsWhenClosing", "close_is_behind_all_that_was_sent_and_in_order", "ORDERLY"),
    ("AbortsWhenClosing", "close_keeps_what_is_in_flight_though_both_have_much", "ORDERLY"),
    ("ClosesOnce", "close_and_abort_are_safe_at_any_time", None),
    ("AbortsOneSideOnly", "abort_ends_both_sides", "ABORTED"),
    ("SendsIntoTheVoid", "nothing_is_sent_on_a_link_that_is_over", "NOT_SENT"),
    (
        "NeverSaysThatItIsClosed",
        "of_several_that_wait_for_the_end_one_may_be_cancelled",
        "CANCELLED",
    ),
    ("RaisesWhereNobodyIs", "where_nobody_listens_connecting_says_where", None),
    ("DoesNotSayWhere", "where_nobody_listens_connecting_says_where", "NO_CONNECTION"),
    ("LivesOnWhenCancelled", "a_connect_may_be_cancelled_at_any_time", "CANCELLED_CONNECT"),
    ("AcceptsForEver", "where_nobody_listens_connecting_says_where", "NO_CONNECTION"),
    ("AcceptsForEver", "the_url_of_a_closed_listener_is_free", "RELEASED"),
    (
        "EndsItsLinksWithTheListener",
        "a_closed_listener_accepts_no_more_and_its_links_live_on",
        None,
    ),
    ("TakesOverUrls", "a_url_in_use_is_an_error_and_its_listener_stays", "IN_USE"),
    ("HasOnePlace", "two_listeners_at_two_places_are_kept_apart", None),
    ("ForgetsItsMessages", "requests_are_answered", None),
    ("ForgetsItsMessages", "publications_arrive_in_order", None),
    ("AcceptsForEver", "a_client_comes_back_with_its_broker", "WORKS"),
]

SOCKETS = [
    ("StumblesOverOldFiles", "what_a_killed_broker_left_is_no_obstacle", "STALE"),
    ("StealsUrls", "a_url_in_use_is_an_error_and_its_listener_stays", "IN_USE"),
    ("LeavesItsFile", "messages_go_both_ways_in_order", "NOTHING_LEFT"),
    ("AssumesAPath", "a_url_without_a_place_is_a_connect_error", "BAD_URL"),
    ("StealsUrls", "it_is_found_by_its_scheme_when_it_is_installed", "FOUND"),
    ("LeaksSockets", "the_url_of_a_closed_listener_is_free", "NOTHING_LEFT"),
]


CASES = {"broken_wires.py": WIRES, "broken_links.py": LINKS, "broken_sockets.py": SOCKETS}

# One failure shows a bug: what is parametrized runs no further.
ONE_FAILURE_EACH = """
import pytest

failed = set()

def pytest_runtest_logreport(report):
    if report.failed:
        failed.add(report.nodeid.partition("[")[0])

def pytest_runtest_setup(item):
    if item.nodeid.partition("[")[0] in failed:
        pytest.skip("has failed already")
"""


def run(*arguments: str, path: Path = HERE) -> subprocess.CompletedProcess[str]:
    """Run pytest without our settings, and with no plugin but those that `path` has."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"),
            *(f"--rootdir={HERE}", f"--confcutdir={HERE}", "-c", os.devnull, *arguments),
        ],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("file", CASES)
def test_a_transport_with_a_bug_fails_the_test_for_it(file: str, tmp_path: Path) -> None:
    """All of a file in one process: most of what it takes is to start."""
    (tmp_path / "one_failure_each.py").write_text(ONE_FAILURE_EACH)
    results = tmp_path / "results.xml"
    tests = dict.fromkeys(
        f"{HERE / file}::Test{broken}::test_{test}" for broken, test, _ in CASES[file]
    )
    done = run("-p", "one_failure_each", f"--junitxml={results}", *tests, path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr

    failures: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(results).iter("testcase"):
        broken, test = case.attrib["classname"], case.attrib["name"]
        for failure in case.iter("failure"):
            found = (broken.rpartition(".Test")[2], test.partition("[")[0])
            failures[found] = failure.text or ""
    for broken, test, requirement in CASES[file]:
        failure = failures.get((broken, f"test_{test}"))
        assert failure is not None, f"test_{test} passes {broken}\n{done.stdout}"
        if requirement is not None:
            expected: Requirement = getattr(requirements, requirement)
            for line in (f"Expected: {expected.text}", f"Contract: {expected.contract}"):
                assert line in failure, f"test_{test} on {broken}: {failure}"


@pytest.mark.parametrize(
    ("file", "name", "tests"),
    [
        ("broken_wires.py", "TestHello", "handshake or close or harms or end_of"),
        ("broken_links.py", "TestNothing", "not installed"),
    ],
)
def test_the_others_pass(file: str, name: str, tests: str) -> None:
    done = run("-x", f"{HERE / file}::{name}", "-k", tests)
    assert done.returncode == 0, done.stdout


def test_every_test_of_the_suite_finds_a_bug() -> None:
    """But for those of what core does, whatever a transport makes of it."""
    named = {f"test_{test}" for cases in CASES.values() for _, test, _ in cases}
    assert {name for name in dir(TransportSuite) if name.startswith("test_")} - named == OF_CORE


# Links over byte streams, which tests/link has under test.
OF_CORE = {
    "test_a_connect_that_is_cancelled_in_its_handshake_closes_the_stream",
    "test_a_lost_connection_ends_the_wait_of_drain",
    "test_a_peer_that_never_ends_is_given_up",
    "test_drain_waits_for_a_peer_that_does_not_read",
    "test_of_several_that_drain_one_may_be_cancelled",
    "test_what_was_not_sent_can_be_taken_back",
}
