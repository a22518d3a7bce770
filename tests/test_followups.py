"""Follow-ups and changes of mind: how a turn is read, and what it does to states."""

import time

import pytest

from moma_core import Query, RoutingState, State, StateMachine

START = RoutingState()


def active(machine, text, state=START, events=()):
    return machine.next(state, Query(text, events=events)).active


@pytest.mark.parametrize(
    ("text", "leaves"),
    [
        ("bye for now", True),
        ("Never mind.", True),
        ("never mind, what's 2+2", True),
        ("ok, forget about the flight", True),
        ("let's talk about something else", True),
        ("nothing of note", False),
        ("I will never mind that", False),
    ],
)
def test_what_leaves_a_state(text, leaves):
    machine = StateMachine([State("T", keywords=("flight",), sticky=5, leave=("bye",))])
    assert active(machine, text, RoutingState(("T",), 0)) == (() if leaves else ("T",))


def test_leave_rules_beat_the_rules_that_enter_and_see_events():
    machine = StateMachine(
        [State("T", keywords=("flight",), sticky=5, leave=("no flight", "^agent_finished:b"))]
    )
    assert active(machine, "no flight please") == ()
    assert active(machine, "flight", events=("agent_finished:booker",)) == ()
    assert active(machine, "flight", events=("agent_finished:other",)) == ("T",)


def test_what_follows_a_cancel_phrase_counts():
    machine = StateMachine(
        [State("T", keywords=("flight",), sticky=5), State("F", keywords=("pasta",))]
    )
    before = RoutingState(("T",), 0)
    assert active(machine, "never mind, let's cook pasta", before) == ("F",)
    assert active(machine, "never mind the flight", before) == ()
    assert active(machine, "never mind the flight, pasta!", before) == ("F",)


@pytest.mark.parametrize("expires_after", [0, 2, 8])
def test_follow_ups_keep_a_state_for_so_long(expires_after):
    machine = StateMachine([State("T", keywords=("flight",), expires_after=expires_after)])
    state, seen = machine.next(START, Query("flight")), 0
    state = RoutingState(state.active, topic="flight to Rome", last_target="flights")
    while state.active:
        state = machine.next(state, Query("and for two?"))
        seen += 1
    assert seen == expires_after + 1


BEFORE = RoutingState(last_target="booker", topic="a table in Rome")


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ("and for two people?", True),
        ("what about tomorrow?", True),
        ("How about Italian", True),
        ("same for Porto", True),
        ("for three nights", True),
        ("yes please", True),
        ("make it four", True),
        ("thanks, and on Sunday?", True),
        ("and who signed it?", True),
        ("and who is Ada Lovelace?", False),
        ("in what year did the war end?", False),
        ("what's 2+2", False),
        ("android phones", False),
        ("forty", False),
        ("and " + "so " * 12, False),
        ("and " + "x" * 80, False),
    ],
)
def test_what_is_a_follow_up(text, follows):
    reading = StateMachine().read(Query(text), BEFORE)
    assert reading.follows is follows
    assert reading.joined == (f"a table in Rome {text}" if follows else None)
    assert not StateMachine().read(Query(text), START).follows
    assert not StateMachine().read(Query(text, events=("file_uploaded",)), BEFORE).follows


def test_a_follow_up_leans_on_the_last_turn_that_stood_by_itself():
    reading = StateMachine().read(Query("and six?", history=("a table", "and in Rome?")), START)
    assert reading.topic == "a table"
    assert StateMachine().read(Query("and six?"), RoutingState(last_target="b")).joined is None


@pytest.mark.parametrize("text", ["never mind", "Never mind.", "ok, forget it!"])
def test_a_mere_cancellation_says_nothing(text):
    reading = StateMachine().read(Query(text), BEFORE)
    assert (reading.words, reading.text, reading.cancels) == ("", text, True)


def test_phrases_of_other_languages():
    machine = StateMachine(follow_ups=("und", "那"), cancel=("vergiss es", "a.c"))
    assert machine.read(Query("Und in Köln?"), BEFORE).follows
    assert machine.read(Query("那北京呢"), BEFORE).follows
    assert not machine.read(Query("undercover"), BEFORE).follows
    assert machine.read(Query("vergiss es, 2+2?"), BEFORE).text == "2+2?"
    assert not machine.read(Query("abc, 2+2?"), BEFORE).cancels


@pytest.mark.parametrize("text", ["ok " * 50_000, "and " * 50_000, "never mind " * 50_000, "(" * 9])
def test_no_phrase_hangs(text):
    start = time.perf_counter()
    StateMachine().read(Query(text), BEFORE)
    assert time.perf_counter() - start < 0.2
