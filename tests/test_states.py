"""The state machine: rules, meaning, staying and leaving."""

import time

import pytest

from moma_core import Query, RoutingState, State, StateMachine
from moma_core.errors import InvalidStatesError

START = RoutingState()


def active(machine, text, state=START, events=()):
    return machine.next(state, Query(text, events=events)).active


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": ""},
        {"name": None},
        {"name": "A", "keywords": "flight"},
        {"name": "A", "keywords": ("",)},
        {"name": "A", "patterns": (3,)},
        {"name": "A", "events": "file_uploaded"},
        {"name": "A", "agents": "weather"},
    ],
    ids=str,
)
def test_states_made_in_python_are_checked_too(arguments):
    with pytest.raises(InvalidStatesError):
        State(**arguments)


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_no_states_restrict_nothing(text):
    machine = StateMachine.from_toml(text)
    assert machine.next(START, Query("anything")) == START
    assert machine.eligible(START, ["a"], [()]) is None


@pytest.mark.parametrize(
    ("keyword", "text", "fires"),
    [
        ("art", "art", True),
        ("art", "Is ART worth it?", True),
        ("art", "modern-art, please", True),
        ("art", "start", False),
        ("art", "artist", False),
        ("art", "art_1", False),
        ("art", "4art", False),
        ("ber", "über", False),
        ("caf", "café", False),
        ("über", "ÜBER alles", True),
        ("book a flight", "please book a flight.", True),
        ("c++", "is C++ hard?", True),
        ("a.b", "axb", False),
        ("天气", "今天天气怎么样", True),
        ("天气", "今天下雨", False),
        ("погода", "какая погода?", True),
        ("погода", "непогода", False),
    ],
)
def test_keywords_are_whole_words(keyword, text, fires):
    assert bool(active(StateMachine([State("S", keywords=(keyword,))]), text)) is fires


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(a+)+$", "a" * 50_000 + "b"),
        (r"(a|aa)+$", "a" * 50_000 + "b"),
        (r"(.*)*x", "y" * 50_000),
        (r"(\w+\s?)*!", "word " * 200_000),
    ],
)
def test_no_pattern_hangs(pattern, text):
    machine = StateMachine([State("S", patterns=(pattern,))])
    start = time.perf_counter()
    assert active(machine, text) == ()
    assert time.perf_counter() - start < 0.5


def test_patterns_search_anywhere():
    machine = StateMachine([State("ORDER", patterns=(r"#\d{4}\b",))])
    assert active(machine, "where is #1234 now") == ("ORDER",)
    assert active(machine, "where is #12 now") == ()
    assert active(machine, "nul \x00 and #1234") == ("ORDER",)


def test_events_match_by_prefix():
    machine = StateMachine([State("FILE", events=("file_uploaded",))])
    assert active(machine, "sum it up", events=["file_uploaded:pdf"]) == ("FILE",)
    assert active(machine, "sum it up", events=["no_file_uploaded"]) == ()
    assert active(machine, "file_uploaded") == ()


def test_the_highest_priority_wins_and_equals_hold_together():
    machine = StateMachine(
        [
            State("LOW", keywords=("flight",), priority=-5),
            State("ONE", keywords=("paris",), priority=2),
            State("TWO", keywords=("hotel",), priority=2),
        ]
    )
    assert active(machine, "flight") == ("LOW",)
    assert active(machine, "flight to paris") == ("ONE",)
    assert active(machine, "flight and hotel in paris") == ("ONE", "TWO")


def test_negative_priorities_fire():
    low = State("LOW", keywords=("a",), priority=-1)
    lower = State("LOWER", keywords=("b",), priority=-2)
    assert active(StateMachine([low, lower]), "a b") == ("LOW",)
    assert active(StateMachine([low, lower]), "b") == ("LOWER",)


def test_meaning_where_rules_are_silent(minilm):
    machine = StateMachine(
        [
            State("TRAVEL", prompt="planning a journey, flights and hotels"),
            State("COOKING", prompt="recipes and cooking a meal"),
            State("STOP", keywords=("stop",)),
        ],
        minilm,
    )

    def meant(text):
        return machine.next(START, Query(text), minilm.encode([text])[0]).active

    assert meant("find me a cheap flight and a hotel") == ("TRAVEL",)
    assert meant("a recipe for cooking pasta") == ("COOKING",)
    assert meant("what is the derivative of x squared") == ()
    assert meant("stop looking for a flight and a hotel") == ("STOP",)
    assert machine.next(START, Query("a recipe for cooking pasta")).active == ()


def turns(machine, *texts):
    state, seen = START, []
    for text in texts:
        state = machine.next(state, Query(text))
        seen.append(state.active)
    return seen


@pytest.mark.parametrize("sticky", [0, 1, 3])
@pytest.mark.parametrize("fired", [1, 2, 5])
def test_a_state_stays_for_so_many_silent_turns(sticky, fired):
    machine = StateMachine([State("TRAVEL", keywords=("flight",), sticky=sticky)])
    texts = ["flight"] * fired + ["and then?"] * (sticky + 2)
    held = fired + sticky
    assert turns(machine, *texts) == [("TRAVEL",)] * held + [()] * (len(texts) - held)


def test_a_stay_is_renewed():
    machine = StateMachine([State("TRAVEL", keywords=("flight",), sticky=1)])
    assert turns(machine, "flight", "and?", "flight", "and?", "and?") == [("TRAVEL",)] * 4 + [()]


def test_another_rule_ends_a_stay():
    machine = StateMachine(
        [State("TRAVEL", keywords=("flight",), sticky=9), State("FOOD", keywords=("pasta",))]
    )
    assert turns(machine, "flight", "pasta", "and?") == [("TRAVEL",), ("FOOD",), ()]


def test_parts_of_a_composite_state_leave_one_by_one():
    machine = StateMachine(
        [State("A", keywords=("a",), sticky=1), State("B", keywords=("b",), sticky=3)]
    )
    seen = turns(machine, "a b", "x", "x", "x", "x")
    assert seen == [("A", "B"), ("A", "B"), ("B",), ("B",), ()]


def test_a_state_of_another_machine_is_forgotten():
    machine = StateMachine([State("A", keywords=("a",), sticky=3)])
    assert machine.next(RoutingState(("GONE", "A"), 0), Query("x")).active == ("A",)
    assert machine.next(RoutingState(("GONE",), 0), Query("x")).active == ()


def test_next_is_pure_and_keeps_the_last_target():
    machine = StateMachine([State("A", keywords=("a",), sticky=1)])
    before = RoutingState(("A",), 0, "weather")
    first, second = machine.next(before, Query("x")), machine.next(before, Query("x"))
    assert first == second
    assert first.last_target == "weather"
    assert before == RoutingState(("A",), 0, "weather")


def test_who_is_eligible():
    machine = StateMachine(
        [
            State("CATEGORY", categories=("outside",)),
            State("NAMES", agents=("b",)),
            State("PREFIX", prefixes=("db_",)),
            State("FREE"),
        ]
    )
    names, categories = ["a", "b", "db_c", "d"], [("outside", "x"), (), (), ("inside",)]

    def allowed(*states):
        mask = machine.eligible(RoutingState(states), names, categories)
        return None if mask is None else [n for n, yes in zip(names, mask, strict=True) if yes]

    assert allowed("CATEGORY") == ["a"]
    assert allowed("NAMES") == ["b"]
    assert allowed("PREFIX") == ["db_c"]
    assert allowed("CATEGORY", "PREFIX") == ["a", "db_c"]
    assert allowed("NAMES", "FREE") == ["b"]
    assert allowed("FREE") is None
    assert allowed() is None
    assert allowed("GONE") is None


def test_meaning_decides_between_states_whose_rules_fire(minilm):
    machine = StateMachine(
        [
            State("PLANTS", keywords=("bank", "plant"), prompt="gardens, flowers and rivers"),
            State("MONEY", keywords=("bank",), prompt="money, loans and accounts"),
            State("ASKS", patterns=(r"\?$",)),
        ],
        minilm,
    )
    text = "which bank gives me a loan for my account?"
    found = machine.next(START, Query(text), minilm.encode([text])[0])
    assert found.active == ("MONEY", "ASKS")
    assert machine.next(START, Query(text)).active == ("PLANTS", "MONEY", "ASKS")


def test_twenty_states_cost_little(minilm):
    machine = StateMachine(
        [
            State(
                f"S{i}",
                keywords=tuple(f"word{i}{j}" for j in range(5)),
                patterns=(rf"\bpat{i}\d+",),
                prompt=f"about thing {i}",
                leave=(f"bye{i}",),
            )
            for i in range(20)
        ],
        minilm,
    )
    query = Query("please book a flight to Rome for me tomorrow morning")
    vector, times = minilm.encode([query.text])[0], []
    for _ in range(200):
        start = time.perf_counter()
        machine.next(START, query, vector)
        times.append(time.perf_counter() - start)
    assert min(times) < 2e-4
