"""Composite states: when they hold, whom they allow, and which are refused."""

import pytest

from moma_core import Query, RoutingState, State, StateMachine
from moma_core.errors import InvalidStatesError

START = RoutingState()


def active(machine, text, state=START, events=()):
    return machine.next(state, Query(text, events=events)).active


PARTS = (
    State("TRAVEL", keywords=("flight",), categories=("travel",)),
    State("FILE", events=("file_uploaded",), priority=9, sticky=2, agents=("reader",)),
    State("TICKET", all_of=("TRAVEL", "FILE"), agents=("expenses",)),
)


def test_a_composite_state_holds_when_all_its_parts_do():
    machine = StateMachine(PARTS)
    assert active(machine, "a flight") == ("TRAVEL",)
    both = machine.next(START, Query("my flight", events=("file_uploaded",)))
    assert both.active == ("TICKET", "TRAVEL", "FILE")
    later = machine.next(START, Query("here", events=("file_uploaded",)))
    later = machine.next(later, Query("it is for my flight"))
    assert later.active == ("TICKET", "TRAVEL", "FILE")
    assert later.ages == (0, 0, 1)
    assert machine.next(later, Query("something else entirely")).active == ("FILE",)


def test_a_composite_state_takes_the_lead_over_its_parts():
    machine = StateMachine(PARTS)
    names, categories = ["plane", "reader", "expenses"], [("travel",), (), ()]
    allowed = machine.eligible(RoutingState(("TICKET", "TRAVEL", "FILE")), names, categories)
    assert allowed.tolist() == [False, False, True]
    allowed = machine.eligible(RoutingState(("TRAVEL", "FILE")), names, categories)
    assert allowed.tolist() == [True, True, False]


def test_a_composite_state_does_not_renew_the_stay_of_its_parts():
    machine = StateMachine(PARTS)
    state, seen = machine.next(START, Query("x", events=("file_uploaded",))), []
    for _ in range(4):
        state = machine.next(state, Query("flight"))
        seen.append(state.active)
    assert seen == [("TICKET", "TRAVEL", "FILE")] * 2 + [("TRAVEL",)] * 2


def test_composite_states_nest():
    a, b, c = (State(x, keywords=(x.lower(),), agents=(x,)) for x in "ABC")
    machine = StateMachine(
        [a, b, c, State("ABC", all_of=("AB", "C"), agents=("abc",)), State("AB", all_of=("A", "B"))]
    )
    state = machine.next(START, Query("c b a"))
    assert state.active == ("ABC", "AB", "A", "B", "C")
    assert machine.eligible(state, ["A", "abc"], [(), ()]).tolist() == [False, True]
    assert machine.eligible(machine.next(START, Query("a b")), ["A"], [()]) is None


@pytest.mark.parametrize(
    ("parts", "says"),
    [({"X": ("Y",), "Y": ("Z",), "Z": ("X",)}, "X -> Y -> Z -> X"), ({"X": ("Q",)}, "'Q'")],
)
def test_circles_and_strangers_are_refused(parts, says):
    with pytest.raises(InvalidStatesError, match=says):
        StateMachine([State(name, all_of=of) for name, of in parts.items()])
